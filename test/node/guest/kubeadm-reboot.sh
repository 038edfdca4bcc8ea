# After a reboot everything runs again by itself; reset and uninstall leave nothing.
export KUBECONFIG=/etc/kubernetes/admin.conf
check "the API answers after the reboot" patiently kubectl get --raw /readyz
check "the node has the new boot" patiently sh -c "! kubectl get node -o jsonpath='{.items[0].status.nodeInfo.bootID}' | grep -q -F -f /var/tmp/boot"
check "the deployment runs after the reboot" patiently sh -c "kubectl get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[0].restartCount} {.items[*].status.containerStatuses[0].ready}' | grep '^1 1 true true'"
check "exec after the reboot" patiently kubectl exec deployment/web -- true
kubectl get pods -A -o wide 2>&1 | sed 's/^/# /'

kubeadm reset -f --cri-socket $endpoint >/var/tmp/reset.out 2>&1 && echo "ok kubeadm reset" || echo "not ok kubeadm reset: $(tail -n 3 /var/tmp/reset.out | tr '\n' ' ')"
check "no pod is left" [ -z "$(crictl pods -q)" ]
check "no lease is left" no_lease
systemctl disable -q --now kubelet node-network
systemctl stop kubepods.slice # docs/operations.md: the kubelet's, which nobody else takes away

# docs/operations.md, Uninstall
export CONTAINER_RUNTIME_ENDPOINT=$endpoint
crictl pods -q | xargs -r -n 1 crictl stopp
crictl pods -q | xargs -r -n 1 crictl rmp
systemctl disable -q --now cricketd cricket-monitor
rm -f /etc/systemd/system/cricketd.service /etc/systemd/system/cricket-monitor.service
systemctl daemon-reload
for dir in /run/cricket/layers /run/cricket/containers /run/cricket; do umount -R $dir 2>/dev/null; done
rm -rf /run/cricket /var/lib/cricket /etc/cricket
rm -f /usr/local/bin/cricketd /usr/local/bin/cricket-monitor /usr/local/bin/cricket
rm -f /etc/cni/net.d/10-cricket.conflist
ip link delete cricket0
rm -rf /var/lib/cni/networks/cricket
rm -f /etc/kubernetes/kubelet.conf.d/20-cricket.conf
rmdir /etc/kubernetes/kubelet.conf.d
rm -f /etc/default/kubelet
iptables-save | grep -v KUBE- | iptables-restore
ip6tables-save | grep -v KUBE- | ip6tables-restore

check "no process is left" sh -c '! pgrep -a "cricket|kube|etcd|coredns|pause|sleep"'
check "no mount is left" sh -c '! grep -E "cricket|kubelet|/run/netns" /proc/mounts'
check "no cgroup is left" sh -c '! find /sys/fs/cgroup -type d \( -name "kubepods*" -o -name "*cricket*" \) | grep .'
check "no link is left" sh -c '! ip -o link | grep -E "veth|cricket"'
check "no rule is left" sh -c '! { iptables-save; ip6tables-save; } | grep -E "CNI|cricket|KUBE"'
check "no table of kube-proxy is left" sh -c '! nft list tables | grep kube-proxy'
check "no file is left" sh -c '! ls -d /run/cricket* /var/lib/cricket* /etc/cricket* /etc/kubernetes/kubelet.conf.d /etc/default/kubelet /etc/cni/net.d/*cricket* 2>/dev/null | grep .'
