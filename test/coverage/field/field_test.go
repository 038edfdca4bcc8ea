package field

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNames(t *testing.T) {
	for _, name := range []string{
		"RunPodSandboxRequest.config.hostname", "RunPodSandboxRequest.config.linux.sysctls",
		"CreateContainerRequest.config.mounts.image.image_ref",
		"CreateContainerRequest.config.linux.security_context.run_as_user",
		"ListContainersRequest.filter.state",
	} {
		if !slices.Contains(Requests(), name) {
			t.Errorf("%s is no field of a request", name)
		}
	}
	for _, name := range []string{"ContainerStatus.user", "PsiData.Avg10", "StreamImagesResponse.images", "Mount.image"} {
		if !slices.Contains(Answers(), name) {
			t.Errorf("%s is no field of an answer", name)
		}
	}
}

// fake answers every call alike.
type fake struct {
	grpc.ClientConnInterface
	err error
}

func (f fake) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if r, ok := reply.(*v1.RunPodSandboxResponse); ok && f.err == nil {
		r.PodSandboxId = "x"
	}
	return f.err
}

func TestRecorder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deep", "recording.json")
	r := NewRecorder(file)
	request := &v1.RunPodSandboxRequest{Config: &v1.PodSandboxConfig{
		Hostname: "a", Metadata: &v1.PodSandboxMetadata{Name: ""},
		Linux: &v1.LinuxPodSandboxConfig{SecurityContext: &v1.LinuxSandboxSecurityContext{RunAsUser: &v1.Int64Value{}}},
	}}
	call := func(test string, err error) {
		client := v1.NewRuntimeServiceClient(r.Conn(fake{err: err}, test))
		if _, got := client.RunPodSandbox(t.Context(), request); !errors.Is(got, err) {
			t.Errorf("the answer is %v", got)
		}
	}
	t.Run("passes", func(t *testing.T) {
		r.Test(t)
		call(t.Name(), nil)
	})
	t.Run("refused", func(t *testing.T) {
		r.Test(t)
		call(t.Name(), status.Error(codes.InvalidArgument, "run pod: config.hostname: is bad"))
		call(t.Name(), status.Error(codes.InvalidArgument, "linux.security_context[0]: is bad, and config.metadata.name too"))
	})
	t.Run("whole", func(t *testing.T) { call(t.Name(), status.Error(codes.Unimplemented, "no")) })
	t.Run("skips", func(t *testing.T) {
		r.Test(t)
		t.Skip("it is what the recorder is to note")
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	const q, c = "RunPodSandboxRequest", "RunPodSandboxRequest.config"
	for test, want := range map[string]Use{
		"passes": {Outcome: "pass", Answered: []string{"RunPodSandboxResponse.pod_sandbox_id"}, Honoured: []string{
			c, c + ".hostname", c + ".linux", c + ".linux.security_context", c + ".linux.security_context.run_as_user", c + ".metadata"}},
		"refused": {Outcome: "pass", Refused: []string{c + ".hostname", c + ".linux.security_context"}},
		"whole":   {Refused: []string{q}},
		"skips":   {Outcome: "skip"},
	} {
		u := got["TestRecorder/"+test]
		if u.Outcome != want.Outcome || !slices.Equal(u.Honoured, want.Honoured) || !slices.Equal(u.Refused, want.Refused) || !slices.Equal(u.Answered, want.Answered) {
			t.Errorf("%s: recorded %+v, want %+v", test, u, want)
		}
	}
	if NewRecorder("").Conn(fake{}, "") != (fake{}) {
		t.Error("without a file something is recorded")
	}
}
