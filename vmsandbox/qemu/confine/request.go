package confine

import (
	"encoding/json"
	"fmt"
)

// Request says what the program is left with.
type Request struct {
	// User is the user and group id, in the host's terms.
	User uint32 `json:"user"`
	// Files are files and directories that the program can read and execute, at the
	// paths that they have on the host. What does not exist is left out.
	Files []string `json:"files"`
	// Devices are device nodes that it can use.
	Devices []string `json:"devices,omitempty"`
	// Shared is a directory of mounts that it can write to, whoever the files belong to;
	// it cannot write beside them. Mounts that the host makes there later appear, if Share
	// has been called before.
	Shared string `json:"shared,omitempty"`
}

// Command returns the command of a launcher that confines itself and becomes the program
// with the arguments.
func (r Request) Command(launcher, program []string) ([]string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("confine program: %w", err)
	}
	command := append(append([]string{}, launcher...), string(b))
	return append(command, program...), nil
}
