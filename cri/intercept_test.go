package cri

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSlowCallsAreLogged(t *testing.T) {
	for method, want := range map[string]bool{
		v1.RuntimeService_StopPodSandbox_FullMethodName:     true,
		v1.RuntimeService_GetContainerEvents_FullMethodName: false,
	} {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil)) // level info
		if err := NewInterceptor(log, nil).end(log, method, time.Now().Add(-time.Minute), nil, nil); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(out.String(), "slow"); got != want {
			t.Errorf("%s for a minute: %q, want a line: %v", method, out.String(), want)
		}
	}
}
