// Package erofs turns a stream of tar into an EROFS image.
//
// EROFS is the kernel's read-only file system (fs/erofs/erofs_fs.h has the format).
// An image made here is uncompressed, self-contained and a multiple of 4 KiB long, so
// the same file serves as a mount on the host and as the disk of a virtual machine:
//
//	block 0    nothing but the superblock, written last
//	block 1…   the files' data, each file from a new block on, in the tar's order
//	           the inodes, each followed by its xattrs and, if that fits into the
//	           block, a symbolic link's target or a small directory's entries
//	           the blocks of the directories and targets that did not fit
//
// Data goes to the output while it is read; memory holds metadata only, and Limits
// bounds that. Equal tars make equal images.
//
// The image is one layer of overlayfs: whiteouts of the OCI image specification
// become what overlayfs knows as such, and what a tar brings along that overlayfs
// would take for its own marks is dropped.
package erofs
