# What the last boot ran is listed as ended, with what is known of it, until removed.
running=$(cut -d' ' -f2 /var/tmp/running.ids) ended=$(cut -d' ' -f2 /var/tmp/ended.ids)
check "a running container is EXITED" [ "$(state $running)" = CONTAINER_EXITED ]
check "an ended container is EXITED" [ "$(state $ended)" = CONTAINER_EXITED ]
check "its exit code is kept" sh -c "crictl inspect $ended | jq -e '.status.exitCode == 7'"
check "its log path is kept" sh -c "crictl inspect $ended | jq -e '.status.logPath == \"/var/log/pods/ended/main.log\"'"
check "the pods are not ready" [ "$(crictl pods -q --state notready | wc -l)" = 2 ]
check "no pod is ready" [ "$(crictl pods -q --state ready | wc -l)" = 0 ]
check "the image is still there" crictl inspecti $busybox
check "leases of the last boot are released" eventually no_lease
check "a new pod runs" pod fresh
check "everything can be removed" crictl rmp -fa
check "nothing is listed" [ "$(crictl pods -q | wc -l)$(crictl ps -aq | wc -l)" = 00 ]
check "no lease is left" [ "$(leases)" = 0 ]
check "no writable layer is left" [ "$(ls /var/lib/cricket/containers | wc -l)" = 0 ]
