package monitor

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killTree kills a process, its descendants and whatever is in the session, again and
// again until none is left. session is the one that the process began in, 0 if unknown. Who has left the session and lost all its ancestors cannot
// be told from the container's own processes, and stays.
func killTree(root Created, session int, cg cgroup) error {
	known := map[int]uint64{root.Pid: root.StartTime}
	pause := time.Millisecond
	for waited := time.Duration(0); waited < killTime; waited += pause {
		addTree(known, session, candidates(cg))
		alive := 0
		for pid, start := range known {
			st, err := readProc(pid)
			if err != nil || st.start != start || st.dead() {
				continue
			}
			alive++
			unix.Kill(pid, unix.SIGKILL)
		}
		if alive == 0 {
			return nil
		}
		time.Sleep(pause)
		pause = min(pause*2, 50*time.Millisecond)
	}
	return errors.New("kill process tree: it forks faster than it can be killed")
}

// candidates are the processes among which a tree is looked for: those of the cgroup,
// or all if there is none.
func candidates(cg cgroup) []int {
	if cg.tree() != "" {
		return cg.pids()
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// addTree adds to known, which maps process ids to start times, every candidate that
// descends from one that is known or is in the session.
func addTree(known map[int]uint64, session int, candidates []int) {
	stats := make(map[int]procStat)
	for _, pid := range candidates {
		if st, err := readProc(pid); err == nil {
			stats[pid] = st
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, st := range stats {
			if _, have := known[pid]; have {
				continue
			}
			_, child := known[st.parent]
			if child || session != 0 && st.session == session {
				known[pid] = st.start
				grown = true
			}
		}
	}
}
