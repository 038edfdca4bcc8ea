// Package store keeps the records of sandboxes and containers: in memory, where lists
// and status are answered from; as one file each below the state directory, written
// without fsync, for a daemon that starts again; and in a journal below the root
// directory, synced within a second of a change, for a machine that starts again. What a
// killed daemon did not get into the journal is put there when the next one starts.
//
// A record holds facts (a container was started then, it ended so), and states are
// derived from them. Records are never changed once they are in a table: Update swaps
// in a changed copy, so a reader needs no lock for what it holds.
//
// A file that cannot be read becomes a record that says so: its object can be seen and
// removed, and the daemon starts.
package store
