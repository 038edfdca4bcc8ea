package workload

import (
	"fmt"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// writers is what either writer does: it waits until the other is there and commits every
// row by itself, with a pause after each, or the one that comes first would be done before the
// other has had its turn.
const writers = `
touch /data/ready-$1
while [ ! -e /data/ready-$2 ]; do sleep 0.01; done
{
	echo '.timeout 60000'
	for i in $(seq 1 $3); do
		echo "begin immediate; insert into rows(who) values ('$1'); commit;"
		echo '.shell sleep 0.01'
	done
} | sqlite3 -bail /data/db
`

// TestSQLite has two containers write into one database in WAL mode, which is a file that
// both have mapped as shared memory, and locks.
func TestSQLite(t *testing.T) {
	const rows = 100
	onVolumes(t, images.Database, func(t *testing.T, p *pod, mounted func(*cri.ContainerConfig)) {
		n := p.n
		reader, _ := p.container(images.Database, mounted, "sleep", "infinity")
		mode := n.must(reader, slow, "sqlite3", "/data/db", "pragma journal_mode=wal; create table rows(id integer primary key autoincrement, who text)")
		if mode != "wal" {
			t.Fatalf("the journal is %q", mode)
		}
		began := time.Now()
		a, logA := p.container(images.Database, mounted, "sh", "-c", writers, "sh", "a", "b", fmt.Sprint(rows))
		b, logB := p.container(images.Database, mounted, "sh", "-c", writers, "sh", "b", "a", fmt.Sprint(rows))
		for id, c := range map[string]*cri.ContainerConfig{a: logA, b: logB} {
			if s := n.Exited(id, slow); s.GetExitCode() != 0 {
				t.Errorf("a writer ends with %d\n%s", s.GetExitCode(), n.Log(p.config, c))
			}
		}
		t.Logf("%d rows by each of two writers: %s", rows, time.Since(began).Round(time.Second/10))
		query := func(q string) string { return n.must(reader, slow, "sqlite3", "/data/db", q) }
		if got := query("pragma integrity_check"); got != "ok" {
			t.Errorf("the database is damaged: %s", got)
		}
		want := fmt.Sprintf("a|%d\nb|%d", rows, rows)
		if got := query("select who, count(*) from rows group by who order by who"); got != want {
			t.Errorf("rows are\n%s\nwant\n%s", got, want)
		}
		// Each has begun before the other was done.
		if got := query("select count(*) from (select min(id) first, max(id) last from rows group by who) x, (select min(id) first, max(id) last from rows group by who) y where x.first < y.first and y.first < x.last"); got != "1" {
			t.Error("the writers did not write at once")
		}
	})
}
