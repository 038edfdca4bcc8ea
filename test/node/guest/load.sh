# First judges what the last power cut left, then pulls images and starts pods until
# the next one.
. /payload/guest/load-check.sh
crictl images -q | while read -r image; do crictl rmi $image >/dev/null 2>&1; done
crictl pull $busybox >/dev/null
echo loading
n=0
while true; do
	n=$((n+1))
	for image in test-image-1 test-image-2 test-image-3; do
		crictl pull gcr.io/k8s-staging-cri-tools/$image:latest >/dev/null 2>&1
	done
	pod "load$n" 'sleep 1000' >/dev/null 2>&1
	pod "short$n" 'exit 3' >/dev/null 2>&1
	[ $((n % 3)) = 0 ] && crictl rmi gcr.io/k8s-staging-cri-tools/test-image-2:latest >/dev/null 2>&1
	[ $((n % 5)) = 0 ] && crictl rmp -fa >/dev/null 2>&1
done
