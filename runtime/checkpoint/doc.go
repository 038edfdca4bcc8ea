// Package checkpoint makes checkpoints of containers: it finds CRIU and asks it whether it
// can work here, describes what a container wrote to its file system as a layer, and writes
// the archive that Podman, CRI-O and containerd write, too, and checkpointctl(1) reads.
//
// The archive is a tar file, not compressed, with these members:
//
//	config.dump      JSON: what container of which image this is (Config)
//	spec.dump        JSON: the OCI specification
//	status.dump      JSON: the container's status as the CRI tells it
//	status           JSON: its times and process (Status)
//	checkpoint/      CRIU's images
//	rootfs-diff.tar  what the container wrote, a layer of the OCI image specification
//	dump.log         CRIU's log
//	stats-dump       CRIU's figures
//	container.log    the container's log until then
//
// It holds the memory of the container's processes, secrets included.
package checkpoint
