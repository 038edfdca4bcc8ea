// Program is the static binary inside the test images. The name it is started under
// chooses what it does:
//
//	nginx   serves HTTP on the port in /etc/nginx/port (default 80)
//	httpd   serves HTTP on port 80
//	nnp     prints its effective user id, installed setuid root
//	pause   waits for SIGINT or SIGTERM and reaps orphans
//	spew    spew BYTES LINE: writes BYTES bytes of lines, LINE bytes each
//	hostile hostile PORT: takes over the virtual machine that it is in, as a privileged
//	        container, and floods a channel to the host with garbage
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// master is what critest looks for in /proc/1/cmdline of an nginx container.
const master = "nginx: master process nginx -g daemon off;"

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if args[0] == master {
		return serve("nginx", "/etc/nginx/port")
	}
	switch name := filepath.Base(args[0]); name {
	case "nginx":
		return becomeMaster()
	case "httpd":
		return serve("httpd", "")
	case "nnp":
		_, err := fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return err
	case "pause":
		return pause()
	case "spew":
		return spew(args[1:])
	case "hostile":
		return hostile(args[1:])
	case seizer:
		return seize(args[0])
	default:
		return fmt.Errorf("no program of this name")
	}
}

// becomeMaster writes the pid file that critest reads and executes the program again
// with nginx's own argv[0]; pid and comm stay.
func becomeMaster() error {
	if err := os.MkdirAll("/var/run", 0o755); err != nil {
		return err
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := os.WriteFile("/var/run/nginx.pid", []byte(pid), 0o644); err != nil {
		return err
	}
	return syscall.Exec("/usr/sbin/nginx", []string{master}, os.Environ())
}

func serve(name, portFile string) error {
	port := "80"
	if b, err := os.ReadFile(portFile); err == nil {
		port = strings.TrimSpace(string(b))
	}
	fmt.Fprintf(os.Stderr, "%s: listening on port %s, resuming normal operations\n", name, port)
	return http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", name)
		fmt.Fprintf(w, "<html><body><h1>Welcome to %s!</h1></body></html>\n", name)
	}))
}

func pause() error {
	events := make(chan os.Signal, 16)
	signal.Notify(events, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range events {
		if s != syscall.SIGCHLD {
			return nil
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

func spew(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want BYTES LINE")
	}
	total, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(args[1])
	if err != nil || length < 1 {
		return fmt.Errorf("line length %q", args[1])
	}
	line := append(bytes.Repeat([]byte("x"), length-1), '\n')
	block := bytes.Repeat(line, max(1, 65536/length))
	for total >= length {
		n := min(len(block), total/length*length)
		if _, err := os.Stdout.Write(block[:n]); err != nil {
			return err
		}
		total -= n
	}
	return nil
}
