package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// unstage points the replacements in the module's go.mod that name directories, which a
// module's zip cannot hold, at the modules published from those directories.
func (t Tool) unstage(ctx context.Context, dir string) error {
	modules, err := staged(ctx, dir)
	if err != nil {
		return fmt.Errorf("read go.mod: %w", err)
	}
	query := []string{"mod", "download", "-json"}
	edit := []string{"mod", "edit"}
	for _, m := range modules {
		query = append(query, m+"@"+t.Staging)
		edit = append(edit, "-replace="+m+"="+m+"@"+t.Staging)
	}
	if sum, err := sums(ctx, query); err != nil {
		return fmt.Errorf("download what %s replaces: %w", t.Module, err)
	} else if sum != t.StagingSum {
		return fmt.Errorf("what %s replaces has the hash %s, expected %s", t.Module, sum, t.StagingSum)
	}
	c := exec.CommandContext(ctx, "go", edit...)
	c.Dir = dir
	return c.Run()
}

// staged lists the modules that are required and replaced by directories.
func staged(ctx context.Context, dir string) ([]string, error) {
	c := exec.CommandContext(ctx, "go", "mod", "edit", "-json")
	c.Dir = dir
	data, err := c.Output()
	if err != nil {
		return nil, err
	}
	var mod struct {
		Require []struct{ Path string }
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := json.Unmarshal(data, &mod); err != nil {
		return nil, err
	}
	required := map[string]bool{}
	for _, r := range mod.Require {
		required[r.Path] = true
	}
	var modules []string
	for _, r := range mod.Replace {
		if required[r.Old.Path] && strings.HasPrefix(r.New.Path, ".") {
			modules = append(modules, r.Old.Path)
		}
	}
	return modules, nil
}

// sums runs go mod download and returns one hash of all the modules' hashes.
func sums(ctx context.Context, args []string) (string, error) {
	c := exec.CommandContext(ctx, "go", args...)
	c.Stderr = os.Stderr
	c.Dir = os.TempDir() // the modules stay out of ours
	out, err := c.Output()
	if err != nil {
		return "", err
	}
	var lines []string
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var m struct{ Path, Version, Sum string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("%s %s %s\n", m.Path, m.Version, m.Sum))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:16]), nil
}
