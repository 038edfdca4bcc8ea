// Clone is what the first process of a container says of the machine that it is in. As
// "clone clock" it answers every byte of its standard input with the time.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	say := speak
	if len(os.Args) > 1 && os.Args[1] == "clock" {
		say = clock
	}
	if err := say(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func clock() error {
	in, one := bufio.NewReader(os.Stdin), make([]byte, 1)
	for {
		if _, err := in.Read(one); err != nil {
			return nil
		}
		if _, err := fmt.Println(time.Now().UnixNano()); err != nil {
			return err
		}
	}
}

// speak reads random numbers before anything else.
func speak() error {
	call, device := make([]byte, 32), make([]byte, 32)
	if _, err := unix.Getrandom(call, 0); err != nil {
		return err
	}
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(f, device); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	said, err := json.Marshal(map[string]string{
		"getrandom": hex.EncodeToString(call), "urandom": hex.EncodeToString(device), "boot id": strings.TrimSpace(string(boot)),
		"host name": host, "hardware address": eth.HardwareAddr.String(),
	})
	if err != nil {
		return err
	}
	fmt.Println(string(said))
	time.Sleep(time.Hour)
	return nil
}
