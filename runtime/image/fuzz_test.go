package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// someManifest is a manifest as registries have it.
const someManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":32}]}`

// someArtifact is what ORAS makes of a file and a directory.
const someArtifact = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.example.model",
"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},
"layers":[{"mediaType":"text/plain","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"org.opencontainers.image.title":"weights/1"}},
{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":32,"annotations":{
"org.opencontainers.image.title":"docs","io.deis.oras.content.unpack":"true","io.deis.oras.content.digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}]}`

// someIndex is an index of two platforms and of one that it does not name.
const someIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"os":"linux","architecture":"amd64"}},
{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"platform":{"os":"linux","architecture":"arm","variant":"v7"}},
{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":4}]}`

// FuzzManifest: whatever is read as a manifest is one and no index, and its layers are
// checked before anything is fetched.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(someManifest), []byte(`{"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}`))
	f.Add([]byte(`{"config":{},"layers":null}`), []byte(`{}`))
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`), []byte(`{}`))
	f.Add([]byte(`{"Config":{},"CONFIG":null,"layers":[{"size":-1}]}`), []byte(`{"rootfs":{"diff_ids":[""]}}`))
	f.Fuzz(func(t *testing.T, raw, config []byte) {
		doc, err := parseDocument(raw)
		if err != nil {
			wantKind(t, err)
			return
		}
		if (doc.Config == nil) == (doc.Manifests == nil) {
			t.Fatalf("both or neither: %+v", doc)
		}
		img, err := parseConfig(config)
		if err != nil || doc.Config == nil {
			return
		}
		src := source{diffIDs: img.RootFS.DiffIDs, parts: tars(doc.Layers)}
		if err := src.checkLayers(); err != nil {
			wantKind(t, err)
			return
		}
		if len(src.parts) != len(img.RootFS.DiffIDs) || len(src.parts) > maxLayers {
			t.Fatalf("%d layers for %d diff ids", len(src.parts), len(img.RootFS.DiffIDs))
		}
		for _, l := range src.parts {
			if l.Size < 0 || l.Digest.Validate() != nil {
				t.Fatalf("layer %+v", l)
			}
		}
	})
}

// FuzzArtifact: whatever is read as an artifact has a layer for each part, and its files have
// names that lead nowhere else and that a tar can have.
func FuzzArtifact(f *testing.F) {
	f.Add([]byte(someManifest))
	f.Add([]byte(someArtifact))
	f.Add([]byte(strings.ReplaceAll(someArtifact, "weights/1", "../1")))
	f.Add([]byte(`{"artifactType":"a/b","config":{},"layers":[{"annotations":{"org.opencontainers.image.title":"."}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parseDocument(raw)
		if err != nil || doc.Config == nil {
			return
		}
		src := source{manifest: digest.FromBytes(raw)}
		if err := src.readArtifact(doc); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				wantKind(t, err)
			}
			return
		}
		if len(src.parts) != len(src.diffIDs) || len(src.parts) > maxLayers {
			t.Fatalf("%d parts for %d layers", len(src.parts), len(src.diffIDs))
		}
		files := map[string]bool{}
		for i, p := range src.parts {
			if p.Size < 0 || p.Digest.Validate() != nil || src.diffIDs[i].Validate() != nil {
				t.Fatalf("part %+v", p)
			}
			if p.file == "" {
				continue
			}
			if files[p.file] || !filepath.IsLocal(p.file) || filepath.Clean(p.file) != p.file {
				t.Fatalf("file %q", p.file)
			}
			files[p.file] = true
		}
		for name := range files {
			for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
				if files[dir] {
					t.Fatalf("%q is a file and a directory", dir)
				}
			}
		}
	})
}

// wantKind checks that an error of what a registry sent says that it is the registry's.
func wantKind(t *testing.T, err error) {
	t.Helper()
	if !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotImplemented(err) && !errdefs.IsNotFound(err) {
		t.Fatalf("error has no kind: %v", err)
	}
}

// FuzzIndex: what is chosen of an index stands in it, and suits the node or says nothing
// of a platform.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(someIndex))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"","architecture":""}},{"platform":null}]}`))
	f.Add([]byte(`{"manifests":[],"layers":[]}`))
	platform := nodePlatform()
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parseDocument(raw)
		if err != nil {
			wantKind(t, err)
			return
		}
		chosen, err := choose(doc.Manifests, platform)
		if err != nil {
			wantKind(t, err)
			return
		}
		if chosen.Platform != nil && !platform.Match(*chosen.Platform) {
			t.Fatalf("chose platform %+v", chosen.Platform)
		}
		for _, d := range doc.Manifests {
			if d.Digest == chosen.Digest && d.Size == chosen.Size {
				return
			}
		}
		t.Fatalf("%+v is not in the index", chosen)
	})
}

// FuzzConfig: a configuration that is accepted makes a record that is read again, and
// holds nothing but what the record checks.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","config":{"Env":["A=b"],"User":"1000:5","Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x"},{"empty_layer":true}]}`))
	f.Add([]byte(`{"rootfs":{"type":"layers","diff_ids":["sha512:e3","sha256:../x"]}}`))
	f.Add([]byte(`{"rootfs":null,"RootFS":{"diff_ids":null},"config":{"User":":"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		img, err := parseConfig(raw)
		if err != nil {
			wantKind(t, err)
			return
		}
		if len(img.RootFS.DiffIDs) > maxList || len(img.History) > maxList {
			t.Fatalf("%d diff ids, %d of history", len(img.RootFS.DiffIDs), len(img.History))
		}
		r := record{Version: recordVersion, ID: digest.FromBytes(raw), Config: raw, DiffIDs: img.RootFS.DiffIDs}
		dir := t.TempDir()
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		again, err := load(dir, func(file string, err error) { t.Fatalf("%s: %v", file, err) })
		if err != nil || len(again) != 1 || !bytes.Equal(again[0].Config, raw) {
			t.Fatalf("%d records, %v", len(again), err)
		}
		if uid, _ := (Image{Config: img}).User(); uid != nil && *uid < 0 {
			t.Fatalf("user %d", *uid)
		}
	})
}

// FuzzInflate: any blob ends, within the limit, and errors say that it is the blob's.
func FuzzInflate(f *testing.F) {
	for _, l := range []layer{plain("x"), gzipped("x"), zstded("x"), chunked("x"), gzipped(strings.Repeat("\x00", 1<<16))} {
		f.Add(l.blob)
		f.Add(l.blob[:len(l.blob)-3])
	}
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, blob []byte) {
		desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		checked := newVerifier(bytes.NewReader(blob), desc)
		tar, err := inflate(checked)
		if err != nil {
			wantKind(t, checked.reason(err))
			return
		}
		defer tar.Close()
		n, err := io.Copy(io.Discard, &inflated{tar, checked, limit, limit})
		if n > limit {
			t.Fatalf("%d bytes", n)
		}
		if err != nil && !errors.Is(err, errdefs.ErrResourceExhausted) {
			wantKind(t, err)
		}
	})
}

// FuzzHosts: a hosts.toml is understood or fails the pull with its name; it never makes
// the daemon panic, nor is it passed over.
func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://registry.example\"\n[host.\"https://mirror.example\"]\ncapabilities = [\"pull\"]\n[host.\"https://mirror.example\".header]\nx-y = [\"z\"]\n"))
	f.Add([]byte("server = \"http://10.0.0.5:5000\"\nskip_verify = true\nca = \"/none\"\n"))
	f.Add([]byte("[host]\n[host.x]\nclient = [[\"a\", \"b\"]]\n"))
	f.Add([]byte("server = 5\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		root := t.TempDir()
		dir := filepath.Join(root, "registry.example")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := hostDir(root)("registry.example")
		if err == nil && found != dir {
			t.Fatalf("directory %q", found)
		}
		if err != nil && !strings.Contains(err.Error(), "hosts.toml") {
			t.Fatalf("error does not name the file: %v", err)
		}
	})
}

// TestListsAreBounded: a document of megabytes of commas does not fill the memory.
func TestListsAreBounded(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("{},", maxList+1), ",")
	for name, doc := range map[string]string{
		"layers": `{"config":{},"layers":[` + many + `]}`, "manifests": `{"manifests":[` + many + `]}`,
	} {
		if _, err := parseDocument([]byte(doc)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	if _, err := parseConfig([]byte(`{"history":[` + many + `]}`)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("history: error = %v", err)
	}
	ids := strings.TrimSuffix(strings.Repeat(`"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",`, maxList+1), ",")
	if _, err := parseConfig([]byte(`{"rootfs":{"diff_ids":[` + ids + `]}}`)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("diff ids: error = %v", err)
	}
	var doc document
	if err := json.Unmarshal([]byte(`{"layers":null,"manifests":[]}`), &doc); err != nil || doc.Layers != nil || doc.Manifests == nil {
		t.Errorf("null and empty lists: %+v, %v", doc, err)
	}
}
