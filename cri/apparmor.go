package cri

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/moby/profiles/apparmor"
)

// defaultProfile is the AppArmor profile of containers that ask for RuntimeDefault, or
// for nothing.
const defaultProfile = "cricket-default"

// appArmor is the host's AppArmor.
type appArmor struct {
	// switchFile says whether the kernel confines; profilesFile lists the profiles that
	// it has loaded, one a line with its mode in brackets.
	switchFile, profilesFile string
	// install generates a profile and loads it into the kernel.
	install func(name string) error
}

func hostAppArmor() appArmor {
	return appArmor{
		switchFile:   "/sys/module/apparmor/parameters/enabled",
		profilesFile: "/sys/kernel/security/apparmor/profiles",
		install:      apparmor.InstallDefault,
	}
}

func (a appArmor) enabled() bool {
	text, err := os.ReadFile(a.switchFile)
	return err == nil && strings.HasPrefix(string(text), "Y")
}

// useDefault returns the name of the default profile, which it loads if it is not
// loaded: an administrator may have loaded one of that name. It returns "" where there
// is none to be had; containers that ask for nothing are not confined then, as with
// other runtimes, and those that ask for RuntimeDefault are refused.
func (a appArmor) useDefault(log *slog.Logger) string {
	if !a.enabled() {
		return ""
	}
	loaded, err := a.loaded(defaultProfile)
	if err == nil && !loaded {
		err = a.install(defaultProfile)
	}
	if err != nil {
		log.Warn("no default AppArmor profile; install apparmor_parser (Debian package apparmor) and start again",
			"profile", defaultProfile, "error", err)
		return ""
	}
	return defaultProfile
}

// loaded says whether the kernel has a profile.
func (a appArmor) loaded(profile string) (bool, error) {
	f, err := os.Open(a.profilesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read AppArmor profiles: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), profile+" (") {
			return true, nil
		}
	}
	return false, lines.Err()
}
