# Leaves a running and an ended container behind for the next boot.
check "pull" crictl pull $busybox
pod running >/var/tmp/running.ids
pod ended 'exit 7' >/var/tmp/ended.ids
check "the second container ends" eventually sh -c "crictl inspect $(cut -d' ' -f2 /var/tmp/ended.ids) | jq -e '.status.exitCode == 7'"
# The journal is written at most a second later.
sleep 3
