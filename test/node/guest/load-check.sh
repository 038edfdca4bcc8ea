# Judges what a power cut left: images are whole or absent, leases released, and
# everything can be removed.
crictl pods -q >/run/pods.before
check "the pods of the last boot are not ready" [ "$(crictl pods -q --state ready | wc -l)" = 0 ]
check "leases of the last boot are released" eventually no_lease
check "remove the pods of the last boot" crictl rmp -fa
for image in $(crictl images -q); do
	name=$(crictl inspecti $image | jq -r '.status.repoTags[0]')
	printf '{"metadata":{"name":"whole"},"image":{"image":"%s"},"command":["true"],"linux":{}}' "$image" >/run/whole.json
	printf '{"metadata":{"name":"whole","namespace":"default","uid":"whole"},"linux":{}}' >/run/whole.pod.json
	check "image $name is whole" sh -c 'p=$(crictl runp /run/whole.pod.json) && crictl create $p /run/whole.json /run/whole.pod.json; rc=$?; crictl rmp -f $p; exit $rc'
done
for blob in /var/lib/cricket/layers/*; do
	[ -f "$blob" ] && check "blob $(basename $blob) is whole" fsck.erofs --extract "$blob"
done
check "no lease is left" [ "$(leases)" = 0 ]
