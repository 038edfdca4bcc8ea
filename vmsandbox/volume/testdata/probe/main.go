// Command probe tries what programs do with files, in the directory that is its argument,
// and prints one line for each: a name, a tab, and "ok" or what went wrong.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type check struct {
	name string
	try  func() error
}

func main() {
	if len(os.Args) == 3 {
		helper(os.Args[1], os.Args[2])
		return
	}
	if err := os.Chdir(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, c := range append(append(contents(), names()...), sharing()...) {
		result := "ok"
		if err := c.try(); err != nil {
			result = err.Error()
		}
		fmt.Printf("%s\t%s\n", c.name, result)
	}
	speed()
}

func file(name string) *os.File {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		panic(err)
	}
	return f
}

func want(got, want string) error {
	if got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// contents of files.
func contents() []check {
	return []check{
		{"fsync", func() error {
			f := file("sync")
			_, err := f.WriteString("x")
			dir, err2 := os.Open(".")
			return errors.Join(err, err2, f.Sync(), unix.Fdatasync(int(f.Fd())), unix.SyncFileRange(int(f.Fd()), 0, 1, 7), dir.Sync(), unix.Syncfs(int(dir.Fd())))
		}},
		{"truncate", func() error {
			f := file("truncate")
			_, err := f.WriteString(strings.Repeat("a", 10000))
			err = errors.Join(err, f.Truncate(5000), f.Truncate(20000))
			b, err2 := os.ReadFile("truncate")
			return errors.Join(err, err2, want(string(b[4999:5001]), "a\x00"), want(fmt.Sprint(len(b)), "20000"))
		}},
		{"truncate while mapped", func() error {
			f, m, err := mapped("truncate-mapped")
			if err != nil {
				return err
			}
			m[0] = 'q'
			err = f.Truncate(65536)
			b := make([]byte, 1)
			_, err2 := f.ReadAt(b, 0)
			return errors.Join(err, err2, want(string(b), "q"), unix.Msync(m, unix.MS_SYNC))
		}},
		{"append by two", func() error {
			a, err := os.OpenFile("append", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			b, err2 := os.OpenFile("append", os.O_APPEND|os.O_WRONLY, 0o600)
			for range 50 {
				_, err3 := a.WriteString("aaaa")
				_, err4 := b.WriteString("bbbb")
				err = errors.Join(err, err3, err4)
			}
			c, err3 := os.ReadFile("append")
			return errors.Join(err, err2, err3, want(string(c), strings.Repeat("aaaabbbb", 50)))
		}},
		{"O_DIRECT", func() error { return open("direct", unix.O_DIRECT|unix.O_CREAT|unix.O_RDWR) }},
		{"O_TMPFILE", func() error { return open(".", unix.O_TMPFILE|unix.O_RDWR) }},
		{"fallocate", func() error { return unix.Fallocate(int(file("fallocate").Fd()), 0, 0, 1<<20) }},
		{"exec", func() error {
			b, err := os.ReadFile("/proc/self/exe")
			return errors.Join(err, os.WriteFile("exec", b, 0o755), exec.Command("./exec", "nothing", ".").Run())
		}},
	}
}

func open(name string, flags int) error {
	fd, err := unix.Open(name, flags, 0o600)
	unix.Close(fd)
	return err
}

// names, owners and attributes.
func names() []check {
	return []check{
		{"hard link", func() error {
			file("link-1")
			err := os.Link("link-1", "link-2")
			a, err2 := os.Stat("link-1")
			b, err3 := os.Stat("link-2")
			if err := errors.Join(err, err2, err3); err != nil {
				return err
			}
			return want(fmt.Sprint(os.SameFile(a, b)), "true")
		}},
		{"symbolic link", func() error {
			err := os.Symlink("link-1", "symlink")
			target, err2 := os.Readlink("symlink")
			return errors.Join(err, err2, want(target, "link-1"))
		}},
		{"rename over an open file", func() error {
			f := file("old")
			_, err := f.WriteString("old")
			err = errors.Join(err, os.WriteFile("new", []byte("new"), 0o600), os.Rename("new", "old"))
			b := make([]byte, 3)
			_, err2 := f.ReadAt(b, 0)
			_, err3 := f.WriteString("more")
			c, err4 := os.ReadFile("old")
			return errors.Join(err, err2, err3, err4, want(string(b)+string(c), "oldnew"), f.Sync())
		}},
		{"use an unlinked file", func() error {
			f := unlinked("unlinked-1")
			_, err := f.WriteString("abc")
			b := make([]byte, 3)
			_, err2 := f.ReadAt(b, 0)
			_, err3 := f.Stat()
			return errors.Join(err, err2, err3, want(string(b), "abc"))
		}},
		{"truncate an unlinked file", func() error { return unlinked("unlinked-2").Truncate(1) }},
		{"chmod an unlinked file", func() error { return unlinked("unlinked-3").Chmod(0o644) }},
		{"remove an open directory", func() error {
			err := os.Mkdir("dir", 0o700)
			f, err2 := os.Open("dir")
			err3 := os.Remove("dir")
			_, err4 := f.Stat()
			return errors.Join(err, err2, err3, err4)
		}},
		{"rename without replacing", func() error {
			file("one")
			file("two")
			if err := unix.Renameat2(unix.AT_FDCWD, "one", unix.AT_FDCWD, "two", unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		}},
		{"exchange", func() error { return unix.Renameat2(unix.AT_FDCWD, "one", unix.AT_FDCWD, "two", unix.RENAME_EXCHANGE) }},
		{"owner and set-uid", func() error {
			var st unix.Stat_t
			file("owned")
			err := errors.Join(os.Chown("owned", 12345, 54321), unix.Chmod("owned", 0o4755), unix.Stat("owned", &st))
			return errors.Join(err, want(fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777), "12345:54321 4755"))
		}},
		{"times", func() error {
			var st unix.Stat_t
			file("times")
			err := errors.Join(os.Chtimes("times", time.Unix(1, 5), time.Unix(2, 6)), unix.Stat("times", &st))
			return errors.Join(err, want(fmt.Sprint(st.Mtim.Sec, st.Mtim.Nsec), "2 6"))
		}},
		{"user xattr", func() error {
			file("xattr")
			b := make([]byte, 8)
			err := unix.Setxattr("xattr", "user.k", []byte("v"), 0)
			n, err2 := unix.Getxattr("xattr", "user.k", b)
			return errors.Join(err, err2, want(string(b[:max(n, 0)]), "v"))
		}},
		{"file capability", func() error {
			return unix.Setxattr("xattr", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
		}},
		{"many files", func() error {
			err := os.Mkdir("many", 0o700)
			for i := range 200 {
				err = errors.Join(err, os.WriteFile(fmt.Sprint("many/", i), nil, 0o600))
			}
			entries, err2 := os.ReadDir("many")
			return errors.Join(err, err2, want(fmt.Sprint(len(entries)), "200"))
		}},
	}
}

func unlinked(name string) *os.File {
	f := file(name)
	if err := os.Remove(name); err != nil {
		panic(err)
	}
	return f
}

// sharing between processes.
func sharing() []check {
	return []check{
		{"shared mapping", func() error {
			_, m, err := mapped("mapping")
			if err != nil {
				return err
			}
			m[0] = 'A'
			out, err := run("map", "mapping")
			return errors.Join(err, want(out, "A"), want(string(m[1]), "B"))
		}},
		{"mapping, read and write agree", func() error {
			f, m, err := mapped("mapping-2")
			if err != nil {
				return err
			}
			m[0] = 'A'
			b := make([]byte, 1)
			_, err = f.ReadAt(b, 0)
			_, err2 := f.WriteAt([]byte("C"), 1)
			return errors.Join(err, err2, want(string(b), "A"), want(string(m[1]), "C"))
		}},
		{"flock", func() error { return lock("flock") }},
		{"fcntl lock", func() error { return lock("fcntl") }},
		{"open file description lock", func() error { return lock("ofd") }},
		{"lock ends with its process", func() error {
			file("held")
			c := exec.Command(os.Args[0], "hold", "held")
			out, err := c.StdoutPipe()
			err = errors.Join(err, c.Start())
			_, err2 := io.ReadFull(out, make([]byte, 1))
			_ = c.Process.Kill()
			_ = c.Wait()
			return errors.Join(err, err2, take("fcntl", file("held")))
		}},
		{"named pipe", func() error {
			if err := unix.Mkfifo("pipe", 0o600); err != nil {
				return err
			}
			c := exec.Command(os.Args[0], "write", "pipe")
			err := c.Start()
			b, err2 := os.ReadFile("pipe")
			return errors.Join(err, err2, c.Wait(), want(string(b), "hi"))
		}},
		{"socket", func() error {
			l, err := net.Listen("unix", "socket")
			if err != nil {
				return err
			}
			c := exec.Command(os.Args[0], "connect", "socket")
			err = c.Start()
			conn, err2 := l.Accept()
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			b, err := io.ReadAll(conn)
			return errors.Join(err, c.Wait(), want(string(b), "hi"))
		}},
		{"inotify at the top", func() error { return notified(".") }},
		{"inotify below", func() error { return errors.Join(os.Mkdir("watched", 0o700), notified("watched")) }},
	}
}

func notified(dir string) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_ALL_EVENTS); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "noticed"), nil, 0o600); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 4096))
	return err
}

func mapped(name string) (*os.File, []byte, error) {
	f := file(name)
	if err := f.Truncate(8192); err != nil {
		return nil, nil, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return f, m, err
}

func run(args ...string) (string, error) {
	out, err := exec.Command(os.Args[0], args...).Output()
	return string(out), err
}

func lock(kind string) error {
	name := "locked-" + kind
	f := file(name)
	defer f.Close() // and not before
	if err := take(kind, f); err != nil {
		return err
	}
	out, err := run(kind, name)
	return errors.Join(err, want(out, "locked"))
}

func take(kind string, f *os.File) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	switch kind {
	case "flock":
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	case "ofd":
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	}
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk)
}

// helper is the other process.
func helper(what, name string) {
	switch what {
	case "watch":
		watch(name)
	case "write":
		_ = os.WriteFile(name, []byte("hi"), 0)
	case "connect":
		if c, err := net.Dial("unix", name); err == nil {
			_, _ = c.Write([]byte("hi"))
		}
	case "map":
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return
		}
		if m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			fmt.Printf("%c", m[0])
			m[1] = 'B'
		}
	case "flock", "fcntl", "ofd", "hold":
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return
		}
		if err := take(what, f); errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
			fmt.Print("locked")
		} else if what == "hold" {
			fmt.Print("x")
			time.Sleep(time.Minute)
		}
	}
}

// watch waits for the exchange of ..data and prints the key that it published.
func watch(dir string) {
	fd, err := unix.InotifyInit1(0)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO)
	}
	fmt.Println("watching", err)
	buf := make([]byte, 4096)
	for err == nil {
		var n int
		if n, err = unix.Read(fd, buf); bytes.Contains(buf[:max(n, 0)], []byte("..data\x00")) {
			b, err := os.ReadFile(filepath.Join(dir, "key"))
			fmt.Println("published", string(b), err)
			return
		}
	}
}

// speed prints figures, for whoever reads them.
func speed() {
	const mib = 4
	block := bytes.Repeat([]byte("x"), 1<<20)
	f := file("speed")
	timed := func(name string, n int, once func(i int) error) {
		began := time.Now()
		var err error
		for i := range n {
			err = errors.Join(err, once(i))
		}
		fmt.Printf("speed: %s\t%v each, %v\n", name, (time.Since(began) / time.Duration(n)).Round(time.Microsecond), err)
	}
	timed("write 1 MiB", mib, func(int) error { _, err := f.Write(block); return err })
	timed("fsync", 1, func(int) error { return f.Sync() })
	timed("read 1 MiB", mib, func(i int) error { _, err := f.ReadAt(block, int64(i)<<20); return err })
	timed("write 8 KiB", 200, func(i int) error { _, err := f.WriteAt(block[:8192], int64(i*7919%500)*8192); return err })
	timed("read 8 KiB", 200, func(i int) error { _, err := f.ReadAt(block[:8192], int64(i*7919%500)*8192); return err })
	timed("write 8 KiB and fdatasync", 50, func(i int) error {
		_, err := f.WriteAt(block[:8192], int64(i)*8192)
		return errors.Join(err, unix.Fdatasync(int(f.Fd())))
	})
	timed("create a file", 100, func(i int) error { return os.WriteFile(fmt.Sprint("created-", i), nil, 0o600) })
	timed("stat", 100, func(i int) error { _, err := os.Stat(fmt.Sprint("created-", i)); return err })
}
