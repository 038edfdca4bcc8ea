package cri

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/cri/cdi"
	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// adjustment changes the finished specification of one container: it adds the devices that
// the container asks for by name, and then does what plugins want.
type adjustment struct {
	s        *Server
	pod      *store.Sandbox
	rec      *store.Container
	devices  []string
	asked    bool // plugins may know of the container
	finished outcome
}

// outcome is what became of the container.
type outcome struct {
	user      specs.User
	resources *runtime.Resources
	shown     []byte
}

// adjustmentOf checks what the container of rec asks for.
func (s *Server) adjustmentOf(pod *store.Sandbox, rec *store.Container) (*adjustment, error) {
	var names []string
	for _, d := range rec.Config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	devices, err := cdi.Requested(names, rec.Config.GetAnnotations())
	if err != nil {
		return nil, err
	}
	a := &adjustment{s: s, pod: pod, rec: rec, devices: devices, finished: outcome{user: rec.User, resources: rec.Resources}}
	if s.opts.CDI == nil {
		return a, s.opts.CDI.Inject(nil, devices) // nothing is made for a container that cannot be
	}
	return a, nil
}

// apply is runtime.Config.Adjust.
func (a *adjustment) apply(ctx context.Context, sp *specs.Spec) error {
	if err := a.s.opts.CDI.Inject(sp, a.devices); err != nil {
		return err
	}
	if a.s.plugins == nil {
		a.finished.user = sp.Process.User
		return nil
	}
	a.asked = true // also if one of them refuses: those before it have agreed
	wanted, err := a.s.plugins.Create(ctx, a.s.podShown(a.pod), nri.Complete(nri.FromSpec(sp), a.rec))
	if err != nil {
		return err
	}
	limits := a.s.limitsFor(a.pod)
	if err := nri.Adjust(sp, wanted, limits, a.s.opts.CDI.Inject); err != nil {
		return err
	}
	if r := wanted.GetLinux().GetResources(); r != nil {
		if a.finished.resources, err = limits.Record(a.rec.Resources, r); err != nil {
			return err
		}
	}
	a.finished.user = sp.Process.User
	a.finished.shown, err = nri.Keep(sp)
	return err
}

// undone tells plugins that what they were asked about will not be.
func (a *adjustment) undone(ctx context.Context) {
	if a == nil || !a.asked {
		return
	}
	pod, c := a.s.podShown(a.pod), nri.Container(a.rec)
	a.s.plugins.Stopped(ctx, pod, c)
	a.s.plugins.Removed(ctx, pod, c)
}

// note puts what came of it into the record.
func (a *adjustment) note(r *store.Container) {
	r.User, r.Resources, r.Shown = a.finished.user, a.finished.resources, a.finished.shown
}
