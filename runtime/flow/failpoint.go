//go:build failpoint

package flow

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// FailpointFile is the environment variable that names the file in which tests say
// what shall fail. Its one line is FLOW/STEP/MOMENT=ACTION, where ACTION is error, kill
// (SIGKILL of this process), slow or hold; the line is used up when it has struck. Beside
// it, FILE.seen collects the names of all steps that were passed, and FILE.held is there
// while a step is held: it goes on when somebody removes that.
const FailpointFile = "CRICKET_FAILPOINTS"

func failpoint(flow, step string, at Moment) error {
	file := os.Getenv(FailpointFile)
	if file == "" {
		return nil
	}
	name := flow + "/" + step + "/" + string(at)
	note(file+".seen", name)
	line, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	want, action, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
	if want != name {
		return nil
	}
	os.Remove(file)
	switch action {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	case "slow":
		time.Sleep(time.Second)
		return nil
	case "hold":
		hold(file + ".held")
		return nil
	}
	return fmt.Errorf("failpoint %s", name)
}

func note(file, name string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, name)
}

// hold lets somebody do something to others at this very step.
func hold(file string) {
	err := os.WriteFile(file, nil, 0o600)
	for err == nil {
		time.Sleep(2 * time.Millisecond)
		_, err = os.Lstat(file)
	}
}
