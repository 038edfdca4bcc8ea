package harness

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// fileEnv is the number of the file that a program takes into the node.
const fileEnv = "CRICKET_NODE_FILE"

// Inherit takes a file by its descriptor into the node that Isolate is about to make: a
// socket, say, that listens where the machine's other programs can reach it. Nobody else may
// close it: an os.File does when it is garbage.
func Inherit(fd int) error { return os.Setenv(fileEnv, strconv.Itoa(fd)) }

// Inherited is the file that Inherit took along, nil if there is none.
func Inherited() *os.File {
	fd, err := strconv.Atoi(os.Getenv(fileEnv))
	if err != nil {
		return nil
	}
	unix.CloseOnExec(fd) // it is not for the programs of the node
	return os.NewFile(uintptr(fd), "inherited")
}

// handOn gives a file to the next stage, as the first after standard error.
func handOn(env []string) ([]*os.File, []string) {
	f := Inherited()
	if f == nil {
		return nil, env
	}
	return []*os.File{f}, append(env, fmt.Sprintf("%s=%d", fileEnv, 3))
}
