package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree says of every file of the root file system what there is to say, by its path. It
// looks below the mounts, and needs CAP_SYS_ADMIN for that. Numbers of inodes and devices,
// block counts, times of access and the sizes and links of directories are a file system's
// own business and left out.
func tree() (document, error) {
	root, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone the root's mount: %w", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return nil, fmt.Errorf("change into the root: %w", err)
	}
	d := document{}
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		name := plain(path)
		if err != nil {
			d.set(name, "", err)
			return nil
		}
		text, err := describe(path)
		d.set(name, text, err)
		return nil
	})
	return d, err
}

// plain is a path in ASCII on one line.
func plain(path string) string {
	quoted := strconv.QuoteToASCII(path)
	return quoted[1 : len(quoted)-1]
}

// describe is a file in words NAME=VALUE, without spaces in the values.
func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	words := []string{
		fmt.Sprintf("mode=%o", st.Mode&0o7777), fmt.Sprintf("owner=%d:%d", st.Uid, st.Gid),
		fmt.Sprintf("mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
	}
	add := func(name, value string) { words = append(words, name+"="+url.QueryEscape(value)) }
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		add("links", strconv.FormatUint(st.Nlink, 10))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		add("type", "directory")
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		add("type", "link")
		add("target", target)
	case unix.S_IFREG:
		sum, err := digest(path)
		if err != nil {
			return "", err
		}
		add("type", "file")
		add("size", strconv.FormatInt(st.Size, 10))
		add("content", sum)
	default:
		add("type", fmt.Sprintf("%o %d:%d", st.Mode&unix.S_IFMT, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	attrs, err := xattrs(path)
	if err != nil {
		return "", err
	}
	return strings.Join(append(words, attrs...), " "), nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func xattrs(path string) ([]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil, err
	}
	var words []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		words = append(words, "xattr:"+url.QueryEscape(name)+"="+hex.EncodeToString(value[:n]))
	}
	slices.Sort(words)
	return words, nil
}
