package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// measured has every figure at one time, and changes of it.
func measured(time float64, changes map[string]series) figures {
	f := figures{Times: map[string]series{}}
	for _, name := range []string{"1 start", "1 delete", "30 start", "30 delete", "vm30 start"} {
		f.Times[name] = series{time, 2 * time, time / 2}
	}
	maps.Copy(f.Times, changes)
	return f
}

func TestJudge(t *testing.T) {
	failing := measured(1, nil)
	failing.Errors = map[string][]string{"vm30": {"bench-vm30-3: Failed: no memory"}, "30": {"not looked at"}}
	for name, c := range map[string]struct {
		cricket, containerd figures
		missed              []string // the beginnings of what is missed
	}{
		"fast":                  {measured(1, nil), measured(2, nil), nil},
		"on the bounds":         {measured(1, map[string]series{"1 start": {0.8}, "30 start": {0.6}, "30 delete": {0.8}}), measured(1, nil), nil},
		"as slow":               {measured(1, nil), measured(1, nil), []string{"1 start: 1.00", "30 start: 1.00", "30 delete: 1.00"}},
		"many are slow":         {measured(1, map[string]series{"30 start": {1.3}}), measured(2, nil), []string{"30 start: 0.65 of containerd's time, at most 0.60"}},
		"a slow round":          {measured(1, map[string]series{"1 start": {1, 9, 1}}), measured(2, nil), nil},
		"one deleted slowly":    {measured(1, map[string]series{"1 delete": {9}}), measured(2, nil), nil},
		"not on Cricket":        {measured(1, map[string]series{"30 delete": nil}), measured(2, nil), []string{"30 delete: not measured"}},
		"not on containerd":     {measured(1, nil), measured(2, map[string]series{"1 start": {}}), []string{"1 start: not measured"}},
		"no machines":           {measured(1, map[string]series{"vm30 start": nil}), measured(2, nil), []string{"vm30: not measured"}},
		"machines with errors":  {failing, measured(2, nil), []string{"vm30: 1 errors, the first: bench-vm30-3: Failed: no memory"}},
		"nothing at all":        {figures{}, figures{}, []string{"1 start: ", "30 start: ", "30 delete: ", "vm30: "}},
		"slow beside nothing":   {measured(9, nil), figures{}, []string{"1 start: ", "30 start: ", "30 delete: "}},
		"machines on the other": {measured(1, nil), measured(2, map[string]series{"vm30 start": nil}), nil},
	} {
		all := judge(c.cricket, c.containerd)
		if len(all) != len(bounds)+1 {
			t.Errorf("%s: %d verdicts for %d bounds and the machines", name, len(all), len(bounds))
		}
		var missed []string
		for _, v := range all {
			if !v.held {
				missed = append(missed, v.text)
			}
		}
		if !slices.EqualFunc(missed, c.missed, strings.HasPrefix) {
			t.Errorf("%s: missed %q, want %q", name, missed, c.missed)
		}
	}
}

func TestDifferent(t *testing.T) {
	const one = `{"kubeletconfig": {"featureGates": {"EventedPLEG": true}, "maxPods": 110, "cgroupRoot": "/"}}`
	for name, c := range map[string]struct {
		other string
		want  []string
	}{
		"the same":         {`{"kubeletconfig": {"maxPods": 110, "cgroupRoot": "/", "featureGates": {"EventedPLEG": true}}}`, nil},
		"a gate":           {strings.Replace(one, "true", "false", 1), []string{"featureGates is map[EventedPLEG:true] and map[EventedPLEG:false]"}},
		"a field less":     {strings.Replace(one, `, "cgroupRoot": "/"`, "", 1), []string{"cgroupRoot is / and <nil>"}},
		"a field and more": {strings.Replace(one, "110", `111, "a": 1`, 1), []string{"a is <nil> and 1", "maxPods is 110 and 111"}},
	} {
		got, err := different(one, c.other)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q (%v), want %q", name, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "{}", "no JSON"} {
		if _, err := different(one, bad); err == nil {
			t.Errorf("%q was taken for a configuration", bad)
		}
	}
}

func TestFailures(t *testing.T) {
	event := func(pod, reason string) corev1.Event {
		return corev1.Event{Reason: reason, Message: "why", InvolvedObject: corev1.ObjectReference{Name: pod}}
	}
	got := failuresOf([]corev1.Event{
		event(podName("vm30", 7), "FailedCreatePodSandBox"),
		event(podName("vm30", 7), "FailedScheduling"), // it waits for room
		event(podName("30", 12), "Failed"),
		event("coredns-1", "Failed"),
		event("bench", "Failed"),
	})
	want := map[string][]string{"vm30": {"bench-vm30-7: FailedCreatePodSandBox: why"}, "30": {"bench-30-12: Failed: why"}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("failures are %q, want %q", got, want)
	}
}
