# A control plane by kubeadm, with its default preflight, whose pods all run on Cricket.
install -m 755 $kubernetes/bin/* /usr/local/bin/
# The machine has no network card; this is the link that a node is reached by.
cat >/etc/systemd/system/node-network.service <<EOF
[Unit]
Before=kubelet.service network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip link add node0 type dummy
ExecStart=/sbin/ip address add 10.177.0.1/24 dev node0
ExecStart=/sbin/ip link set node0 up
ExecStart=/sbin/ip route add default via 10.177.0.254
[Install]
WantedBy=multi-user.target
EOF
# As the packages of kubeadm's project have it.
cat >/etc/systemd/system/kubelet.service <<EOF
[Unit]
After=network.target cricketd.service
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=/usr/local/bin/kubelet \$KUBELET_KUBECONFIG_ARGS \$KUBELET_CONFIG_ARGS \$KUBELET_KUBEADM_ARGS \$KUBELET_EXTRA_ARGS
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
EOF
printf 'net.ipv4.ip_forward = 1\n' >/etc/sysctl.d/90-kubernetes.conf
printf 'br_netfilter\noverlay\n' >/etc/modules-load.d/kubernetes.conf
systemctl restart systemd-modules-load systemd-sysctl
systemctl daemon-reload
systemctl enable -q cricket-monitor cricketd kubelet node-network
systemctl start node-network

# docs/kubernetes.md
mkdir -p /etc/kubernetes/kubelet.conf.d
install -m 644 $kubernetes/files/20-cricket.conf /etc/kubernetes/kubelet.conf.d/
echo 'KUBELET_EXTRA_ARGS=--config-dir=/etc/kubernetes/kubelet.conf.d' >/etc/default/kubelet

# An emulated machine takes longer than kubeadm has patience.
cat >/run/kubeadm.yaml <<EOF
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.177.0.1}
nodeRegistration: {criSocket: "$endpoint"}
timeouts: {controlPlaneComponentHealthCheck: 20m, kubeletHealthCheck: 20m, kubernetesAPICall: 20m, tlsBootstrap: 20m, discovery: 20m}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(kubeadm version -o short)
networking: {podSubnet: 10.88.0.0/16}
# A lease of 15 seconds is too short for it, too, and there is nobody else to lead.
controllerManager: {extraArgs: [{name: leader-elect, value: "false"}]}
scheduler: {extraArgs: [{name: leader-elect, value: "false"}]}
EOF
kubeadm init --config /run/kubeadm.yaml >/var/tmp/kubeadm.out 2>&1 && echo "ok kubeadm init" ||
	{ echo "not ok kubeadm init: $(tail -n 3 /var/tmp/kubeadm.out | tr '\n' ' ')"; sed 's/^/# /' /var/tmp/kubeadm.out; }
grep WARNING /var/tmp/kubeadm.out | sed 's/^/# /'
export KUBECONFIG=/etc/kubernetes/admin.conf
for component in etcd kube-apiserver kube-controller-manager kube-scheduler; do
	check "$component is a pod of Cricket's" [ -n "$(crictl pods -q --label component=$component --state ready)" ]
done
check "the node is ready" patiently sh -c "kubectl get node -o jsonpath='{.items[0].status.conditions[?(@.type==\"Ready\")].status}' | grep True"
check "the node names Cricket" sh -c "kubectl get node -o jsonpath='{.items[0].status.nodeInfo.containerRuntimeVersion}' | grep ^cricket://"
check "no taint" kubectl taint nodes --all node-role.kubernetes.io/control-plane-
check "a deployment" kubectl create deployment web --replicas=2 --image=$busybox -- sleep 36000
check "the deployment runs" patiently kubectl rollout status deployment/web --timeout=60s
check "the name server runs" patiently kubectl rollout status -n kube-system deployment/coredns --timeout=60s
check "exec" patiently kubectl exec deployment/web -- true
check "metrics tell of pods" patiently sh -c "kubectl get --raw /api/v1/nodes/cricket-node/proxy/metrics/cadvisor | grep -q 'container_memory_working_set_bytes{.*pod=\"web-'"
kubectl get node -o jsonpath='{.items[0].status.nodeInfo.bootID}' >/var/tmp/boot
kubectl get pods -A -o wide 2>&1 | sed 's/^/# /'
