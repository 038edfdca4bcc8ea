package guest

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Modprobe loads the module that the kernel asks for, by its name or one of its aliases,
// after those that it depends on. The kernel starts it as a program of its own, with
// arguments like modprobe's, when a pod needs something that is not there yet.
func Modprobe(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("modprobe: no name: %w", errdefs.ErrInvalidArgument)
	}
	m := modules{dir: modulesDir, load: loadModule}
	return m.probe(args[len(args)-1])
}

// modules are those in a directory that hack/guest made.
type modules struct {
	dir  string
	load func(file string) error
}

func (m modules) probe(wanted string) error {
	wanted = underscores(wanted)
	depends := make(map[string][]string)
	err := m.lines("depends", func(words []string) { depends[words[0]] = words[1:] })
	if err != nil {
		return err
	}
	var names []string
	if _, ok := depends[wanted]; ok {
		names = []string{wanted}
	}
	if len(names) == 0 {
		err := m.lines("alias", func(words []string) {
			// A pattern that is no pattern matches nothing.
			if ok, err := path.Match(underscores(words[0]), wanted); ok && err == nil && len(words) == 2 {
				names = append(names, words[1])
			}
		})
		if err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("modprobe %s: %w", wanted, errdefs.ErrNotFound)
	}
	done := make(map[string]bool)
	for _, n := range names {
		if err := m.insert(n, depends, done); err != nil {
			return err
		}
	}
	return nil
}

// insert loads a module after those that it depends on. Those that process 1 has loaded
// have no files any more.
func (m modules) insert(name string, depends map[string][]string, done map[string]bool) error {
	name = underscores(name)
	if done[name] {
		return nil
	}
	done[name] = true
	for _, d := range depends[name] {
		if err := m.insert(d, depends, done); err != nil {
			return err
		}
	}
	file := filepath.Join(m.dir, name+".ko.gz")
	if unix.Access(file, unix.R_OK) != nil {
		return nil
	}
	return m.load(file)
}

// lines calls do with the words of each line.
func (m modules) lines(file string, do func(words []string)) error {
	f, err := os.Open(filepath.Join(m.dir, file))
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if words := strings.Fields(s.Text()); len(words) > 0 {
			do(words)
		}
	}
	return s.Err()
}

// underscores makes names comparable: dashes and underscores are the same in them.
func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }
