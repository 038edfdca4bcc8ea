// Command payload is what the tests run in containers.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	arg := func(i int) int {
		n, err := strconv.Atoi(os.Args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	switch os.Args[1] {
	case "exit":
		os.Exit(arg(2))
	case "say": // text to stdout, text to stderr, exit code
		fmt.Print(os.Args[2])
		fmt.Fprint(os.Stderr, os.Args[3])
		os.Exit(arg(4))
	case "later": // ms, text, exit code
		time.Sleep(time.Duration(arg(2)) * time.Millisecond)
		fmt.Print(os.Args[3])
		os.Exit(arg(4))
	case "write": // a file, and print who owns it and the program
		if err := os.WriteFile(os.Args[2], []byte("x"), 0o644); err != nil {
			fmt.Println(err)
		}
		for _, f := range []string{os.Args[2], "/payload"} {
			var st syscall.Stat_t
			err := syscall.Stat(f, &st)
			fmt.Println(f, st.Uid, st.Gid, err)
		}
	case "show": // a file
		data, err := os.ReadFile(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Stdout.Write(data)
	case "self": // whether the program's own file can be written where it was executed
		var st syscall.Statfs_t
		if err := syscall.Statfs("/proc/self/exe", &st); err != nil {
			panic(err)
		}
		if st.Flags&syscall.MS_RDONLY == 0 {
			fmt.Print("writable")
		} else {
			fmt.Print("read-only")
		}
	case "list": // a directory
		entries, err := os.ReadDir(os.Args[2])
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		fmt.Println(err, os.WriteFile(os.Args[2]+"/new", nil, 0o600))
	case "sleep":
		signal.Ignore(syscall.SIGHUP)
		time.Sleep(time.Duration(arg(2)) * time.Millisecond)
	case "term": // exit with a code on SIGTERM
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGTERM)
		fmt.Println("ready")
		<-ch
		os.Exit(arg(2))
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
		fmt.Print("end of input")
	case "lines": // count numbered lines of 100 bytes, then exit 7 on a file's appearance
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		pad := strings.Repeat("x", 90)
		for i := range arg(2) {
			fmt.Fprintf(w, "%08d %s\n", i, pad)
		}
		w.Flush()
		os.Exit(7)
	case "flood": // numbered lines at about MB/s for ms, then exit 9
		flood(arg(2), time.Duration(arg(3))*time.Millisecond)
		os.Exit(9)
	case "family": // children and grandchildren that sleep, one of them in a session of its own
		for range 3 {
			c := exec.Command(self, "child")
			said, err := c.StdoutPipe()
			if err != nil {
				panic(err)
			}
			if err := c.Start(); err != nil {
				panic(err)
			}
			if _, err := io.ReadFull(said, make([]byte, 1)); err != nil {
				panic(err)
			}
		}
		orphan := exec.Command(self, "orphan")
		if err := orphan.Run(); err != nil {
			panic(err)
		}
		fmt.Println("family ready")
		time.Sleep(time.Hour)
	case "orphan": // a grandchild without a parent
		if err := exec.Command(self, "sleep", "3600000").Start(); err != nil {
			panic(err)
		}
	case "child":
		c := exec.Command(self, "sleep", "3600000")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			panic(err)
		}
		os.Stdout.WriteString(".") // the grandchild is there
		time.Sleep(time.Hour)
	case "until": // wait for a file, write bytes, make another file
		fmt.Println("waiting")
		for _, err := os.Stat(os.Args[2]); err != nil; _, err = os.Stat(os.Args[2]) {
			time.Sleep(5 * time.Millisecond)
		}
		io.WriteString(os.Stdout, strings.Repeat("z", arg(3)))
		if err := os.WriteFile(os.Args[4], nil, 0o600); err != nil {
			panic(err)
		}
	case "background": // until, by a child that is left behind
		c := exec.Command("/payload", append([]string{"until"}, os.Args[2:]...)...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			panic(err)
		}
		fmt.Print("left")
	case "leave": // a child keeps our stdout open
		c := exec.Command("/payload", "sleep", "3600000")
		c.Stdout = os.Stdout
		if err := c.Start(); err != nil {
			panic(err)
		}
		fmt.Print("left")
	case "eat":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
		_ = all
	case "spy": // on process 1, as far as it lets us
		spy()
	case "serve": // the socket that is descriptor 3; words go to the file that is the next one
		serve(os.NewFile(3, "socket"), os.NewFile(uintptr(arg(2)), "file"))
	case "tty":
		var b [64]byte
		fmt.Println("tty ready")
		n, _ := os.Stdin.Read(b[:])
		fmt.Printf("got %q\n", b[:n])
		os.Exit(5)
	}
}

// spy prints what it gets hold of through process 1, a fact a line.
func spy() {
	show := func(name string, v any, err error) {
		if err != nil {
			v = "error"
		}
		fmt.Printf("%s=%v\n", name, v)
	}
	entries, err := os.ReadDir("/proc/1/root")
	show("root", len(entries), err)
	err = os.WriteFile("/proc/1/root/spied", nil, 0o600)
	show("write root", "ok", err)
	exe, err := os.OpenFile("/proc/1/exe", os.O_RDWR, 0)
	show("write exe", "ok", err)
	if err == nil {
		exe.Close()
	}
	var st syscall.Stat_t
	err = syscall.Stat("/proc/1/exe", &st)
	show("exe", fmt.Sprint(st.Dev, ":", st.Ino), err)
	environment, err := os.ReadFile("/proc/1/environ")
	show("environ", len(environment), err)
	files, err := os.ReadDir("/proc/1/fd")
	show("fd", len(files), err)
	for _, ns := range []string{"mnt", "net", "ipc", "uts"} {
		link, err := os.Readlink("/proc/1/ns/" + ns)
		show(ns, link, err)
	}
}

// serve notes and answers one word a connection, until it is told to quit.
func serve(socket, file *os.File) {
	l, err := net.FileListener(socket)
	if err != nil {
		panic(err)
	}
	fmt.Println("serving")
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		word, _ := io.ReadAll(conn)
		fmt.Printf("got %s\n", word)
		fmt.Fprintf(file, "%s ", word)
		fmt.Fprintf(conn, "got %s", word)
		conn.Close()
		if string(word) == "quit" {
			os.Exit(6)
		}
	}
}

func flood(rate int, d time.Duration) {
	const batch = 512 << 10
	pad := strings.Repeat("y", 90)
	var b strings.Builder
	began := time.Now()
	for i, sent := 0, 0; time.Since(began) < d; {
		b.Reset()
		for b.Len() < batch {
			fmt.Fprintf(&b, "%08d %s\n", i, pad)
			i++
		}
		io.WriteString(os.Stdout, b.String())
		sent += b.Len()
		time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate<<20))))
	}
}
