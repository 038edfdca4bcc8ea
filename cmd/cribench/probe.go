package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mebi = 1 << 20
	// rootMost is how much of the image is read, rootLeast the smallest file of it that is.
	rootMost, rootLeast = 64 * mebi, 16 << 10
	// volumeSize is how much is written to a volume and read again.
	volumeSize = 32 * mebi
	// randomTime is how long blocks of randomSize are read here and there.
	randomTime, randomSize = 2 * time.Second, 4 << 10
	blockSize              = 128 << 10
)

// logStay is how long a program stays whose log is measured, for the time that its helpers
// took to be read.
const logStay = 2 * time.Second

// probe is what this program does inside a container, where the measuring one mounts it.
// Rates go to standard output as JSON.
func probe(args []string, out io.Writer) error {
	var rates map[string]float64
	var err error
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serveStreams()
	case len(args) == 2 && args[0] == "log":
		if err := writeLog(args[1], out); err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		time.Sleep(logStay)
		return nil
	case len(args) == 2 && args[0] == "root":
		rates, err = probeRoot(args[1])
	case len(args) == 2 && args[0] == "volume":
		rates, err = probeVolume(args[1])
	default:
		err = errors.New("want serve, log LINES, root DIR or volume DIR")
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return json.NewEncoder(out).Encode(rates)
}

// rateOf is in MiB a second.
func rateOf(bytes int64, began time.Time) float64 {
	return float64(bytes) / mebi / time.Since(began).Seconds()
}

// probeRoot reads the image's files: from one end to the other, the same again, and blocks
// here and there. This kernel's cache of them is dropped first. What lies below is not: the
// cache of the file that a layer is mounted from, or another kernel's.
func probeRoot(root string) (map[string]float64, error) {
	files, err := openFiles(root)
	if err != nil {
		return nil, err
	}
	rates := map[string]float64{}
	for _, name := range []string{"root: read", "root: read again"} {
		if name == "root: read" {
			dropCache(files)
		}
		began, total := time.Now(), int64(0)
		for _, f := range files {
			n, err := io.CopyBuffer(onlyWriter{io.Discard}, io.NewSectionReader(f, 0, rootMost), make([]byte, blockSize))
			if err != nil {
				return nil, err
			}
			total += n
		}
		rates[name] = rateOf(total, began)
	}
	dropCache(files)
	rates["root: read 4 KiB at random"], err = readRandom(files)
	return rates, err
}

// openFiles opens files of the file system at root, the smallest ones left out.
func openFiles(root string) ([]*os.File, error) {
	var files []*os.File
	var top unix.Stat_t
	if err := unix.Stat(root, &top); err != nil {
		return nil, err
	}
	total, seen := int64(0), map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil || st.Dev != top.Dev && d.IsDir() {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		// Hard links are one file; where overlays number devices, a file has another one.
		if !d.Type().IsRegular() || st.Size < rootLeast || seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = st.Nlink > 1
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		files = append(files, f)
		if total += st.Size; total >= rootMost {
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no file to read", root)
	}
	return files, err
}

func dropCache(files []*os.File) {
	for _, f := range files {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // what stays cached reads faster
	}
}

// readRandom reads blocks for a while. Every read is of a file at random, so that small
// files count as much as large ones.
func readRandom(files []*os.File) (float64, error) {
	random := rand.New(rand.NewPCG(1, 2))
	block := make([]byte, randomSize)
	began, total := time.Now(), int64(0)
	for time.Since(began) < randomTime {
		f := files[random.IntN(len(files))]
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		n, err := f.ReadAt(block, random.Int64N(st.Size()/randomSize)*randomSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		total += int64(n)
	}
	return rateOf(total, began), nil
}

// probeVolume writes a file, to the disk, and reads it.
func probeVolume(dir string) (rates map[string]float64, err error) {
	path := filepath.Join(dir, "probe")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	block := bytes.Repeat([]byte("0123456789abcdef"), blockSize/16)
	began := time.Now()
	for at := int64(0); at < volumeSize; at += blockSize {
		if _, err := f.WriteAt(block, at); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	rates = map[string]float64{"volume: write and sync": rateOf(volumeSize, began)}
	dropCache([]*os.File{f})
	began = time.Now()
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, io.NewSectionReader(f, 0, volumeSize), make([]byte, blockSize))
	rates["volume: read"] = rateOf(n, began)
	return rates, err
}

// lastLine is unlike all others, so that the end of a log can be seen.
func lastLine() []byte { return append(bytes.Repeat([]byte("z"), logLine-1), '\n') }

// writeLog writes so many lines.
func writeLog(count string, out io.Writer) error {
	left, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("lines: %w", err)
	}
	block := bytes.Repeat(append(bytes.Repeat([]byte("x"), logLine-1), '\n'), 600)
	for left > 1 {
		n, err := out.Write(block[:min(len(block), (left-1)*logLine)])
		if err != nil {
			return err
		}
		left -= n / logLine
	}
	_, err = out.Write(lastLine())
	return err
}

// onlyWriter keeps io.Copy from leaving out the buffer.
type onlyWriter struct{ io.Writer }
