package workload

import (
	"regexp"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/integration"
)

// slow is how long one step of a database may take, emulated, on a shared directory and
// with another suite on the machine.
const slow = 5 * time.Minute

// TestPostgres leads the life of a PostgreSQL: made by one container, served by another,
// under load, killed under load, and served again by a third, which recovers it.
func TestPostgres(t *testing.T) {
	onVolumes(t, images.Database, func(t *testing.T, p *pod, mounted func(*cri.ContainerConfig)) {
		db := &postgres{pod: p, mounted: mounted}
		db.init()
		server, _ := db.serve()
		db.load(server)
		db.killUnderLoad(server)
		server, log := db.serve()
		if text := p.n.Log(p.config, log); !strings.Contains(text, "automatic recovery in progress") {
			t.Errorf("it was killed, and recovered nothing:\n%s", text)
		}
		db.sumsAgree(server)
		if s := p.n.stop(server, 60); s.GetExitCode() != 0 {
			t.Errorf("asked to stop, it ends with %d (%s)", s.GetExitCode(), s.GetReason())
		}
	})
}

type postgres struct {
	*pod
	mounted func(*cri.ContainerConfig)
}

// asPostgres are the words before a command that make it the database's own user's.
func asPostgres(command ...string) []string {
	return append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"}, command...)
}

func (db *postgres) init() {
	db.n.t.Helper()
	began := time.Now()
	script := "chown postgres: /data && exec " + strings.Join(asPostgres("initdb", "-D", "/data/db", "-A", "trust"), " ")
	id, c := db.container(images.Database, db.mounted, "sh", "-c", script)
	if s := db.n.Exited(id, slow); s.GetExitCode() != 0 {
		db.n.t.Fatalf("initdb: exit code %d\n%s", s.GetExitCode(), db.n.Log(db.config, c))
	}
	db.n.t.Logf("initdb: %s", time.Since(began).Round(time.Second/10))
}

// serve starts a server and returns when it answers.
func (db *postgres) serve() (string, *cri.ContainerConfig) {
	db.n.t.Helper()
	began := time.Now()
	id, c := db.container(images.Database, db.mounted, asPostgres("postgres", "-D", "/data/db",
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=/tmp")...)
	integration.Within(db.n.t, slow, "the server answers", func() bool {
		if s := db.n.Status(id); s.GetState() != cri.ContainerState_CONTAINER_RUNNING {
			db.n.t.Fatalf("the server has ended: %v\n%s", s, db.n.Log(db.config, c))
		}
		_, code := db.n.try(id, time.Minute, "pg_isready", "-h", "127.0.0.1")
		return code == 0
	})
	db.n.t.Logf("the server answers after %s", time.Since(began).Round(time.Second/10))
	return id, c
}

var rate = regexp.MustCompile(`tps = ([\d.]+)`)

// load runs pgbench for a while, of which no transaction may fail.
func (db *postgres) load(server string) {
	db.n.t.Helper()
	began := time.Now()
	db.n.must(server, slow, "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-i", "-q", "-s", "2", "postgres")
	db.n.t.Logf("pgbench -i: %s", time.Since(began).Round(time.Second/10))
	out := db.n.must(server, slow, "pgbench", "-h", "127.0.0.1", "-U", "postgres", "-c", "4", "-T", "20", "postgres")
	if m := rate.FindString(out); m == "" || !strings.Contains(out, "failed transactions: 0 ") {
		db.n.t.Errorf("pgbench says\n%s", out)
	} else {
		db.n.t.Logf("pgbench: %s", m)
	}
}

// killUnderLoad ends all of the server's processes at once while clients write.
func (db *postgres) killUnderLoad(server string) {
	db.n.t.Helper()
	// -n: it would begin with emptying the history, whose sum is to agree.
	client, _ := db.container(images.Database, nil, "pgbench", "-n", "-h", "127.0.0.1", "-U", "postgres", "-c", "4", "-T", "600", "postgres")
	count := func() string { return db.sql(server, "select count(*) from pgbench_history") }
	before := count()
	integration.Within(db.n.t, slow, "the clients write", func() bool { return count() != before })
	if s := db.n.stop(server, 0); s.GetExitCode() != 137 {
		db.n.t.Fatalf("the server was to be killed, and ended with %d", s.GetExitCode())
	}
	if s := db.n.Exited(client, slow); s.GetExitCode() == 0 {
		db.n.t.Error("its clients have not noticed")
	}
}

// sumsAgree: every transaction of pgbench adds one amount to a row of each table, so a part
// of one that was lost or kept alone shows.
func (db *postgres) sumsAgree(server string) {
	db.n.t.Helper()
	sums := db.sql(server, "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), "+
		"(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)")
	f := strings.Split(sums, "|")
	if len(f) != 5 || f[0] != f[1] || f[1] != f[2] || f[2] != f[3] || f[4] == "0" {
		db.n.t.Errorf("sums of accounts, tellers, branches and history, and transactions: %s", sums)
	}
	db.n.t.Logf("sums and transactions: %s", sums)
}

func (db *postgres) sql(server, query string) string {
	db.n.t.Helper()
	return db.n.must(server, slow, "psql", "-h", "127.0.0.1", "-U", "postgres", "-At", "-c", query)
}
