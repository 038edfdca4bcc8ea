package conformance

import (
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// cases are what every driver must pass, by name.
var cases = map[string]func(*testing.T, *Hull){
	"life":            testLife,
	"exits":           testExits,
	"surroundings":    testSurroundings,
	"user namespace":  testUserNamespace,
	"identity":        testIdentity,
	"limits":          testLimits,
	"mounts":          testMounts,
	"many images":     testManyImages,
	"exec":            testExec,
	"many execs":      testManyExecs,
	"long lines":      testLongLines,
	"attach":          testAttach,
	"attach again":    testAttachAgain,
	"shared":          testShared,
	"PID namespaces":  testPIDNamespaces,
	"network":         testNetwork,
	"figures":         testFigures,
	"restart":         testRestart,
	"rotation":        testRotation,
	"cannot start":    testCannotStart,
	"stop":            testStop,
	"sweep":           testSweep,
	"wrong state":     testWrongState,
	"refusals":        testRefusals,
	"many containers": testMany,
}

func TestKernel(t *testing.T) { suite(t, NewKernelHull(t)) }

func TestVirtual(t *testing.T) { suite(t, NewVirtualHull(t)) }

func suite(t *testing.T, h *Hull) {
	for name, test := range cases {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
	if left, err := h.Driver.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("sandboxes are left: %v, %v", left, err)
	}
	if left, err := h.Driver.Containers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("containers are left: %v, %v", left, err)
	}
	if left, err := h.Node.Network.List(); err != nil || len(left) > 0 {
		t.Errorf("network attachments are left: %v, %v", left, err)
	}
}
