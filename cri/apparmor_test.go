package cri

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestAppArmorDefault(t *testing.T) {
	for _, test := range []struct {
		name, enabled, profiles string
		fails                   bool
		want                    string
		installs                int
	}{
		{name: "off", enabled: "N\n", profiles: "cricket-default (enforce)\n"},
		{name: "no such kernel"},
		{name: "loaded", enabled: "Y\n", profiles: "x (enforce)\ncricket-default (enforce)\n", want: defaultProfile},
		{name: "not loaded", enabled: "Y\n", profiles: "cricket-default-2 (enforce)\n", want: defaultProfile, installs: 1},
		{name: "cannot be loaded", enabled: "Y\n", profiles: "", fails: true, installs: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, installs := t.TempDir(), 0
			a := appArmor{
				switchFile: filepath.Join(dir, "enabled"), profilesFile: filepath.Join(dir, "profiles"),
				install: func(string) error {
					installs++
					if test.fails {
						return errors.New("no apparmor_parser")
					}
					return nil
				},
			}
			if test.enabled != "" {
				for file, text := range map[string]string{a.switchFile: test.enabled, a.profilesFile: test.profiles} {
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := a.useDefault(slog.New(slog.DiscardHandler)); got != test.want || installs != test.installs {
				t.Errorf("default = %q after %d installations, want %q after %d", got, installs, test.want, test.installs)
			}
		})
	}
}
