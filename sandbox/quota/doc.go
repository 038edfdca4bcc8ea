// Package quota bounds directories by the kernel's project quotas.
//
// A project is a number that inodes carry and new ones inherit from their directory; the
// file system counts what each project holds (xfs(5), ext4(5), quotactl(2)). A directory that
// is to be bounded gets a project of its own. Which one is written nowhere but on the
// directory itself, so that nothing can disagree with it.
package quota
