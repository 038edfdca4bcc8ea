package seccomp

import (
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cacheSize is how many profiles are kept: a pod has few.
const cacheSize = 16

// Cache compiles, and keeps what was compiled last. The zero value is ready; it is safe
// for concurrent use. Profiles that were compiled must not be changed afterwards.
type Cache struct {
	mu   sync.Mutex
	seed maphash.Seed
	kept []compiled // used last, last
}

type compiled struct {
	sum     uint64
	profile *specs.LinuxSeccomp
	filter  *Filter
}

// Compile is like the function of that name.
func (c *Cache) Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	if p == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seed == (maphash.Seed{}) {
		c.seed = maphash.MakeSeed()
	}
	sum := c.sum(p)
	i := slices.IndexFunc(c.kept, func(k compiled) bool { return k.sum == sum && reflect.DeepEqual(k.profile, p) })
	if i >= 0 {
		k := c.kept[i]
		c.kept = append(slices.Delete(c.kept, i, i+1), k)
		return k.filter, nil
	}
	f, err := Compile(p)
	if err != nil {
		return nil, err
	}
	if len(c.kept) == cacheSize {
		c.kept = slices.Delete(c.kept, 0, 1)
	}
	c.kept = append(c.kept, compiled{sum, p, f})
	return f, nil
}

// sum tells most profiles apart.
func (c *Cache) sum(p *specs.LinuxSeccomp) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	var n [8]byte
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			h.WriteString(name)
		}
		h.WriteString(string(s.Action))
		for _, a := range s.Args {
			binary.NativeEndian.PutUint64(n[:], a.Value)
			h.Write(n[:])
		}
	}
	return h.Sum64()
}
