// Command probe is what containers of the guest's tests run.
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(what string, args []string) error {
	switch what {
	case "serve": // echoes on an address of loopback
		return serve(args[0])
	case "identity": // clock, host name, random bytes
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return err
		}
		fmt.Printf("%d %s %x\n", time.Now().UnixNano(), name, secret)
	case "eat": // so many MiB, and hold them
		return eat(args[0])
	case "link": // makes an interface of a kind that is in no module loaded so far
		return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dummy7"}})
	case "tun": // opens a device whose module is not loaded
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err
	case "dial": // says what an address answers
		c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, c)
		return err
	case "adjust": // its chance to be killed
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		fmt.Print(string(text))
		return err
	}
	return fmt.Errorf("unknown word %q", what)
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(c, c)
			c.Close()
		}()
	}
}

func eat(mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	var all [][]byte
	for range n {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
	}
	fmt.Println(len(all), "MiB")
	return nil
}
