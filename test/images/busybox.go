package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// busybox is a static busybox and the names of its applets.
type busybox struct {
	binary  []byte
	applets []string
}

// busyboxDefaults are the settings that leave busybox's default configuration.
// PREFER_APPLETS and SH_STANDALONE stay off, as they are by default: with them the
// shell runs applets without exec, and a masked /bin/ls still works. TC does not
// build with the headers of recent kernels. FEATURE_DI_ENV_HACK is Debian's, and undoes
// another change of Debian's: upstream's shell hands on variables with a dash in the name.
var busyboxDefaults = map[string]string{"CONFIG_STATIC": "y", "CONFIG_TC": "n", "CONFIG_FEATURE_DI_ENV_HACK": "y"}

// buildBusybox builds the distribution's busybox source package. dir keeps the result
// and is filled once; /etc/apt and the lists of apt are neither read nor written,
// except to learn which mirrors the machine uses.
func buildBusybox(ctx context.Context, dir string, say func(string, ...any)) (busybox, error) {
	bin := filepath.Join(dir, "busybox")
	if _, err := os.Stat(bin); err != nil {
		say("build busybox from its source package (about a minute)")
		if err := compileBusybox(ctx, dir, bin); err != nil {
			return busybox{}, fmt.Errorf("build busybox: %w", err)
		}
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		return busybox{}, err
	}
	list, err := exec.CommandContext(ctx, bin, "--list").Output()
	if err != nil {
		return busybox{}, fmt.Errorf("list busybox applets: %w", err)
	}
	return busybox{binary: data, applets: strings.Fields(string(list))}, nil
}

func compileBusybox(ctx context.Context, dir, bin string) error {
	work := filepath.Join(dir, "work")
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(work, "lists/partial"), 0o755); err != nil {
		return err
	}
	src, err := fetchSource(ctx, work, "busybox")
	if err != nil {
		return err
	}
	if err := command(ctx, src, "make", "defconfig"); err != nil {
		return err
	}
	if err := configure(filepath.Join(src, ".config"), busyboxDefaults); err != nil {
		return err
	}
	if err := command(ctx, src, "sh", "-c", "yes '' | make oldconfig"); err != nil {
		return err
	}
	if err := command(ctx, src, "make", fmt.Sprintf("-j%d", runtime.NumCPU()), "busybox"); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(src, "busybox"), bin); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// fetchSource downloads and unpacks a source package through a source list of its own
// and returns the directory that holds it.
func fetchSource(ctx context.Context, work, name string) (string, error) {
	list, err := sourceList(ctx)
	if err != nil {
		return "", err
	}
	listFile := filepath.Join(work, "sources.list")
	if err := os.WriteFile(listFile, []byte(list), 0o644); err != nil {
		return "", err
	}
	apt := []string{
		"-qq",
		"-o", "Dir::Etc::sourcelist=" + listFile,
		"-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(work, "lists"),
		"-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Cache::pkgcache=",
		"-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Retries=3", "-o", "Acquire::Languages=none",
	}
	if err := command(ctx, work, "apt-get", append(apt, "update")...); err != nil {
		return "", err
	}
	if err := command(ctx, work, "apt-get", append(apt, "source", name)...); err != nil {
		return "", err
	}
	dirs, err := filepath.Glob(filepath.Join(work, name+"-*/Makefile"))
	if err != nil || len(dirs) != 1 {
		return "", fmt.Errorf("unpack %s: found %d source trees", name, len(dirs))
	}
	return filepath.Dir(dirs[0]), nil
}

// sourceList is the machine's own mirrors of the distribution's main component, as
// deb-src lines.
func sourceList(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Identifier: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("list package sources: %w", err)
	}
	keyrings := map[string]string{
		"Debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
		"Ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
	}
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 || keyrings[f[0]] == "" || f[3] != "main" || seen[f[1]+f[2]] {
			continue
		}
		seen[f[1]+f[2]] = true
		fmt.Fprintf(&b, "deb-src [signed-by=%s] %s %s %s\n", keyrings[f[0]], f[1], f[2], f[3])
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("no Debian or Ubuntu package source is configured")
	}
	return b.String(), nil
}

// configure replaces settings in a kconfig file.
func configure(path string, set map[string]string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "# "), " is not set"), "=")
		if set[name] == "" {
			b.WriteString(line)
		}
	}
	for name, v := range set {
		fmt.Fprintf(&b, "%s=%s\n", name, v)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// command runs a program and puts its output into the error.
func command(ctx context.Context, dir, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	// Builds that embed their time and host would not be deterministic.
	c.Env = append(os.Environ(), "KCONFIG_NOTIMESTAMP=1", "SOURCE_DATE_EPOCH=0", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := c.CombinedOutput()
	if err != nil {
		tail := out[max(0, len(out)-2000):]
		return fmt.Errorf("%s: %w\n%s", name, err, tail)
	}
	return nil
}
