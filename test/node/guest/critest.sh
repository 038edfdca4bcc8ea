# critest against the Cricket that the units started.
echo 'profile node-silent { }' >/run/silent.profile
check "apparmor_parser has nothing to say" sh -c '! sudo apparmor_parser -r -W /run/silent.profile 2>&1 | grep .'
check "cricket check" cricket check
if [ "$(setting loop)" = 1 ]; then
	crictl pull $busybox >/dev/null
	pod loop 'sleep 600' >/dev/null
	check "layers are mounted from loop devices" grep -q '^/dev/loop.* erofs ' /proc/mounts
	crictl rmp -fa >/dev/null 2>&1
	crictl rmi -a >/dev/null 2>&1
fi
$payload/tools/critest-runner --endpoint $endpoint --reports /var/tmp/reports >/var/tmp/critest.out 2>&1 ||
	echo "not ok critest: $(tail -n 1 /var/tmp/critest.out)"
grep -A 12 '^FAILED' /var/tmp/critest.out | sed 's/^/# /'
tail -n 3 /var/tmp/critest.out | sed 's/^/# /'
