package accel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/qemu/confine"
)

// manner is the environment variable that makes this program a stand-in for QEMU, and
// says how that behaves.
const manner = "CRICKET_TEST_QEMU"

func TestMain(m *testing.M) {
	if how := os.Getenv(manner); how != "" {
		standIn(how, os.Args[1:])
	}
	if len(os.Args) > 1 && os.Args[1] == "confine" {
		confine.Main(os.Args[2:])
	}
	os.Exit(m.Run())
}

// late is when a guest that boots late answers.
const late = 3 * time.Second

func standIn(how string, args []string) {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("QEMU emulator version 7.2.99 (stand-in that " + how + ")")
		os.Exit(0)
	}
	count(os.Getenv("CRICKET_TEST_STARTS"))
	switch how {
	case "hangs at once":
		time.Sleep(time.Hour)
	case "crashes":
		fmt.Fprintln(os.Stderr, "kvm_buf_set_msrs: Assertion failed")
		os.Exit(134)
	}
	monitors, port := inherit(args)
	for _, l := range monitors {
		go speakQMP(l, how)
	}
	switch how {
	case "boots":
	case "boots late":
		time.Sleep(late)
	case "prints garbage":
		conn, err := port.Accept()
		for err == nil {
			_, err = conn.Write([]byte(strings.Repeat("\x00\xff\x13garbage{}\n", 1000)))
		}
		time.Sleep(time.Hour)
	default: // the guest hangs, or QEMU will crash
		time.Sleep(time.Hour)
	}
	conn, err := port.Accept()
	if err == nil {
		err = mux.Serve(context.Background(), conn, mux.Options{}, func(service string, c net.Conn) {
			agent.ServeCall(context.Background(), c, answering{})
		})
	}
	fmt.Println(err)
	os.Exit(1)
}

// count leaves a file for each start.
func count(dir string) {
	_ = os.WriteFile(filepath.Join(dir, strconv.Itoa(os.Getpid())), nil, 0o600)
}

// answering is a guest that only says who it is.
type answering struct{ agent.Guest }

func (answering) Hello(context.Context) (agent.Info, error) {
	return agent.Info{Version: 1, Kernel: "6.12.0"}, nil
}

// inherit finds the listening sockets on the command line.
func inherit(args []string) (monitors []net.Listener, port net.Listener) {
	for _, a := range args {
		var id string
		fd := 0
		for _, option := range strings.Split(a, ",") {
			if value, ok := strings.CutPrefix(option, "id="); ok {
				id = value
			} else if value, ok := strings.CutPrefix(option, "fd="); ok {
				fd, _ = strconv.Atoi(value)
			}
		}
		if fd == 0 || !strings.HasPrefix(a, "socket,") {
			continue
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), id))
		if err != nil {
			panic(err)
		}
		switch id {
		case "port0":
			port = l
		case "port1":
		default:
			monitors = append(monitors, l)
		}
	}
	return monitors, port
}

func speakQMP(l net.Listener, how string) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	if how == "garbles QMP" {
		fmt.Fprintln(conn, strings.Repeat("\x01garbage", 100))
		return
	}
	fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 99, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var r struct {
			Execute string `json:"execute"`
			ID      uint64 `json:"id"`
		}
		_ = json.Unmarshal(lines.Bytes(), &r)
		if r.Execute == "cont" && how == "crashes when it runs" {
			fmt.Fprintln(os.Stderr, "KVM internal error. Suberror: 1")
			os.Exit(1)
		}
		fmt.Fprintf(conn, "{\"id\": %d, \"return\": {}}\n", r.ID)
	}
}
