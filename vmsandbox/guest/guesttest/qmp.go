package guesttest

import (
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Command has QEMU carry out a command of its monitor protocol.
func Command(t testing.TB, m *Machine, command string) {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(m.Dir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	d := json.NewDecoder(c)
	for _, line := range []string{`{"execute": "qmp_capabilities"}`, command} {
		if _, err := c.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		answer(t, d, line)
	}
}

// answer reads up to the answer to a command; greetings and events are not one.
func answer(t testing.TB, d *json.Decoder, command string) {
	t.Helper()
	for {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := d.Decode(&reply); err != nil {
			t.Fatal(err)
		}
		if reply.Error != nil {
			t.Fatalf("QEMU refuses %s: %s", command, reply.Error.Desc)
		}
		if reply.Return != nil {
			return
		}
	}
}
