package image

import (
	"maps"
	"slices"
	"time"
)

// naming is what a record gets to be called.
type naming struct {
	tags    []string // full names with tag
	digests []string // full names with digest
	pinned  bool     // never taken away again
	signed  []signed // in place of those that are known of the same repository
}

// commitImage writes the record of an image whose layers are in, or adds names to the one
// that is there. It is the moment from which the image exists.
func (s *Store) commitImage(src source, n naming) (Image, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	r, changed := s.merge(src, n)
	if changed {
		if err := r.write(s.opts.Root); err != nil {
			return Image{}, err
		}
	}
	former := s.owners(n.tags, r)
	s.index(r)
	for _, f := range former { // the greater number decides already, should this not reach the disk
		for _, tag := range n.tags {
			f = f.withoutTag(tag)
		}
		if err := f.write(s.opts.Root); err != nil {
			s.opts.Log.Warn("moved tag stays in the old image's record", "image", f.ID, "error", err)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[r.ID].image, nil
}

// merge adds names to the image's record; s.commit is held.
func (s *Store) merge(src source, n naming) (r record, changed bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, known := s.entries[src.id]
	r = e.record
	if !known {
		r = record{
			Version: recordVersion, ID: src.id, Config: src.config, Manifest: src.artifact.manifest,
			DiffIDs: src.diffIDs, Size: src.size, PulledAt: time.Now().UTC(), Checkpoint: src.checkpoint,
		}
		changed = true
	}
	for _, d := range n.digests {
		if !slices.Contains(r.Digests, d) {
			r.Digests = append(slices.Clone(r.Digests), d)
			changed = true
		}
	}
	slices.Sort(r.Digests)
	seq := s.seq
	for _, tag := range n.tags {
		if s.names[tag] == r.ID {
			continue
		}
		r.Tags = maps.Clone(r.Tags)
		if r.Tags == nil {
			r.Tags = map[string]uint64{}
		}
		seq++
		r.Tags[tag] = seq
		changed = true
	}
	if len(n.signed) > 0 {
		r.Signatures, changed = mergeSigned(r.Signatures, n.signed), true
	}
	if known && src.checkpoint == "" && r.Checkpoint != "" {
		// Somebody else's mark on an image that is none, or whoever pulls first could
		// make an image unusable.
		r.Checkpoint, changed = "", true
	}
	if n.pinned && !r.Pinned {
		r.Pinned, changed = true, true
	}
	return r, changed
}

// owners finds the other records that have the tags now.
func (s *Store) owners(tags []string, but record) (list []record) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, tag := range tags {
		owner, ok := s.names[tag]
		known := slices.ContainsFunc(list, func(r record) bool { return r.ID == owner })
		if ok && owner != but.ID && !known {
			list = append(list, s.entries[owner].record)
		}
	}
	return list
}

func (r record) withoutTag(tag string) record {
	r.Tags = maps.Clone(r.Tags)
	delete(r.Tags, tag)
	return r
}
