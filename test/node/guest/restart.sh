# The daemon and the monitor are stopped, restarted and killed under a pod that counts
# to its log once every 50 ms. The container must not notice.
check "pull" crictl pull $busybox
set -- $(pod one); pod=$1 container=$2
log=/var/log/pods/one/main.log
pid=$(crictl inspect $container | jq .info.pid)

# whole: the log's numbers follow one another without a gap.
whole() { awk '{ if ($4 != NR - 1) { print "line " NR " holds " $4; exit 1 } }' $log; }
# grows: the log gets longer.
grows() { before=$(wc -l <$log); sleep 1; [ "$(wc -l <$log)" -gt "$before" ]; }
# unharmed NAME: what must hold after every blow.
unharmed() {
	check "$1: the API answers" eventually crictl version
	check "$1: the container runs" [ "$(state $container)" = CONTAINER_RUNNING ]
	check "$1: it is the same process" kill -0 $pid
	check "$1: its log goes on" grows
	check "$1: its log has no gap" whole
	check "$1: exec" crictl exec $container true
}
unharmed "at first"
check "the container has the ordinary limit of descriptors" sh -c "[ \"\$(crictl exec $container sh -c 'ulimit -Sn')\" = 1024 ]"
systemctl restart cricketd; unharmed "restart of the daemon"
systemctl kill -s KILL cricketd; unharmed "SIGKILL of the daemon"
systemctl reload cricket-monitor; unharmed "reload of the monitor"
systemctl kill -s KILL --kill-who=main cricket-monitor; sleep 2; unharmed "SIGKILL of the monitor"
systemctl stop cricketd; sleep 1; systemctl start cricketd; unharmed "stop and start of the daemon"

# An exit while the daemon is away is known when it is back.
set -- $(pod two 'sleep 3; exit 7'); second=$2
systemctl stop cricketd; sleep 5; systemctl start cricketd
check "exit code from the daemon's absence" eventually sh -c "crictl inspect $second | jq -e '.status.exitCode == 7'"
check "stop" crictl stop -t 0 $container
check "remove" crictl rmp -f $pod
check "remove all" crictl rmp -fa
check "no lease is left" [ "$(leases)" = 0 ]
