package cgroupstat

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cricket-cri/cricket/runtime"
)

// v2IO reads io.stat: "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func v2IO(content []byte) (list runtime.IOStats) {
	for l := range bytes.Lines(content) {
		number, fields, _ := bytes.Cut(l, []byte{' '})
		d := device(&list, number)
		if d == nil {
			continue
		}
		for field := range bytes.FieldsSeq(fields) {
			key, value, _ := bytes.Cut(field, []byte{'='})
			v, ok := parse(value)
			to := map[string]*uint64{
				"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "dbytes": &d.DiscardBytes,
				"rios": &d.Reads, "wios": &d.Writes, "dios": &d.Discards,
			}[string(key)]
			if ok && to != nil {
				*to = v
			}
		}
	}
	return list
}

// v1IO reads the files of the throttling policy, which counts whatever the scheduler is, or
// those of BFQ. Since Linux 6.10 the former counts only while something is throttled: there
// may be nothing in either.
func v1IO(r *reader) runtime.IOStats {
	if list := v1Policy(r, "blkio.throttle"); len(list) > 0 {
		return list
	}
	return v1Policy(r, "blkio.bfq")
}

func v1Policy(r *reader, policy string) (list runtime.IOStats) {
	v1Operations(&list, r.read("blkio", policy+".io_service_bytes_recursive"), func(d *runtime.IOStat, operation string) *uint64 {
		return map[string]*uint64{"Read": &d.ReadBytes, "Write": &d.WriteBytes, "Discard": &d.DiscardBytes}[operation]
	})
	v1Operations(&list, r.read("blkio", policy+".io_serviced_recursive"), func(d *runtime.IOStat, operation string) *uint64 {
		return map[string]*uint64{"Read": &d.Reads, "Write": &d.Writes, "Discard": &d.Discards}[operation]
	})
	return list
}

// v1Operations reads lines "254:0 Read 4096".
func v1Operations(list *runtime.IOStats, content []byte, place func(*runtime.IOStat, string) *uint64) {
	for l := range bytes.Lines(content) {
		fields := bytes.Fields(l)
		if len(fields) != 3 { // "Total 0"
			continue
		}
		d := device(list, fields[0])
		if v, ok := parse(fields[2]); ok && d != nil {
			if to := place(d, string(fields[1])); to != nil {
				*to = v
			}
		}
	}
}

// device finds the entry of a device in a list, or adds it; nil if number is none.
func device(list *runtime.IOStats, number []byte) *runtime.IOStat {
	first, second, _ := bytes.Cut(number, []byte{':'})
	major, ok := parse(first)
	minor, also := parse(second)
	if !ok || !also {
		return nil
	}
	i := slices.IndexFunc(*list, func(d runtime.IOStat) bool { return uint64(d.Major) == major && uint64(d.Minor) == minor })
	if i < 0 {
		i = len(*list)
		*list = append(*list, runtime.IOStat{
			Major: uint32(major), Minor: uint32(minor), Device: DeviceName(uint32(major), uint32(minor)),
		})
	}
	return &(*list)[i]
}

// DeviceName is /dev/NAME of a block device, "" if it has none: it is gone, or a number
// that the kernel made up for a file system without a device.
func DeviceName(major, minor uint32) string {
	target, err := os.Readlink("/sys/dev/block/" + strconv.FormatUint(uint64(major), 10) + ":" + strconv.FormatUint(uint64(minor), 10))
	if err != nil {
		return ""
	}
	return "/dev/" + filepath.Base(target)
}
