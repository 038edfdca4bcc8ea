# Shared by the tasks: a Cricket that runs from its units, and checks.
payload=/payload
kubernetes=/kubernetes
export PATH=/usr/local/bin:$payload/tools:/usr/sbin:/usr/bin:/sbin:/bin
endpoint=unix:///run/cricket/cricket.sock
busybox=registry.k8s.io/e2e-test-images/busybox:1.29-2

# setting NAME: the value of node.NAME on the kernel command line.
setting() { sed -n "s/.*node\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

# check NAME COMMAND...: reports whether the command succeeded.
check() {
	name=$1; shift
	if "$@" >/run/check.out 2>&1; then echo "ok $name"; else echo "not ok $name: $(tail -n 5 /run/check.out | tr '\n' ' ')"; fi
}

# eventually COMMAND...: true once the command succeeds, false after 60 seconds.
eventually() {
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
	return 1
}

# patiently COMMAND...: the same with as many seconds as an emulated control plane takes.
patiently() {
	for _ in $(seq 900); do "$@" >/dev/null 2>&1 && return 0; sleep 1; done
	return 1
}

# start_cricket installs the programs and units, configures them as the command line
# says, and starts them with a registry of test images beside them.
start_cricket() {
	install -m 755 $payload/bin/cricketd $payload/bin/cricket-monitor $payload/bin/cricket /usr/local/bin/
	install -m 644 $payload/systemd/*.service /etc/systemd/system/
	mkdir -p /etc/cricket/certs.d/_default /etc/cni/net.d
	printf '[cgroup]\ndriver = "%s"\n' "$(setting cgroup)" >/etc/cricket/config.toml
	printf '[host."http://127.0.0.1:5055"]\n  capabilities = ["pull", "resolve"]\n' >/etc/cricket/certs.d/_default/hosts.toml
	# An emulated machine is slow: crictl's own two seconds are too few.
	printf 'runtime-endpoint: %s\nimage-endpoint: %s\ntimeout: 60\n' $endpoint $endpoint >/etc/crictl.yaml
	cp $payload/guest/network.conflist /etc/cni/net.d/10-cricket.conflist
	if [ "$(setting loop)" = 1 ]; then printf '[images]\nloop_devices = true\n' >>/etc/cricket/config.toml; fi
	layouts="--layout $payload/images"
	if [ "$(setting kubernetes)" = 1 ]; then
		mkdir -p $kubernetes
		mount -o ro /dev/vdc $kubernetes
		layouts="$layouts --layout $kubernetes/images"
	fi
	# Reads the images from the payload, so a unit of its own is all it needs.
	systemd-run -q --unit=test-registry $payload/tools/registry $layouts --listen 127.0.0.1:5055
	systemctl daemon-reload
	check "start the units" systemctl start cricket-monitor cricketd
	check "the API answers" eventually crictl version
}

# pod NAME: a pod with one container that counts to its log; prints both ids.
pod() {
	printf '{"metadata":{"name":"%s","namespace":"default","uid":"%s"},"log_directory":"/var/log/pods/%s","linux":{}}' "$1" "$1" "$1" >/run/$1.pod.json
	printf '{"metadata":{"name":"main"},"image":{"image":"%s"},"command":["sh","-c","%s"],"log_path":"main.log","linux":{}}' \
		"$busybox" "${2:-n=0; while true; do echo \$n; n=\$((n+1)); sleep 0.05; done}" >/run/$1.main.json
	mkdir -p /var/log/pods/$1
	p=$(crictl runp /run/$1.pod.json 2>/run/pod.err) || { echo "not ok pod $1: $(tail -n 2 /run/pod.err | tr '\n' ' ')" >&2; return 1; }
	c=$(crictl create $p /run/$1.main.json /run/$1.pod.json) || return
	crictl start $c >/dev/null || return
	echo $p $c
}

# state ID: the state of a container in one word.
state() { crictl inspect "$1" | jq -r .status.state; }

# leases: addresses that are taken.
leases() { find /var/lib/cni/networks -type f -name '[0-9]*' 2>/dev/null | wc -l; }
no_lease() { [ "$(leases)" = 0 ]; }
