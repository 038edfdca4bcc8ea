package cri

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as programs see them: the C library keeps the first two.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// stopSignal is the one that stops the container: the request's, else the image's, else
// SIGTERM.
func stopSignal(requested v1.Signal, image string) (unix.Signal, error) {
	if requested != v1.Signal_SIGNAL_RUNTIME_DEFAULT {
		name, ok := v1.Signal_name[int32(requested)]
		if !ok {
			return 0, badField("config.stop_signal", "%d is unknown", requested)
		}
		name = strings.TrimPrefix(name, "SIGNAL_")
		name = strings.Replace(strings.Replace(name, "PLUS", "+", 1), "MINUS", "-", 1)
		return parseSignal("config.stop_signal", name)
	}
	if image == "" {
		return unix.SIGTERM, nil
	}
	return parseSignal("stop signal of config.image", image)
}

// parseSignal takes numbers and names, with and without SIG: 15, TERM, SIGRTMIN+3.
func parseSignal(field, text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, badField(field, "%d is no signal", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n := realTime(name); n != 0 {
		return n, nil
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	// Not every signal has its other names in package unix.
	if n, ok := map[string]unix.Signal{"CLD": unix.SIGCHLD, "POLL": unix.SIGPOLL, "IOT": unix.SIGIOT, "STKFLT": unix.SIGSTKFLT}[name]; ok {
		return n, nil
	}
	return 0, badField(field, "%q is no signal", text)
}

// realTime is 0 for what is no real-time signal.
func realTime(name string) unix.Signal {
	base := 0
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if ok {
		base = sigRTMin
	} else if rest, ok = strings.CutPrefix(name, "RTMAX"); ok {
		base = sigRTMax
	}
	if base == 0 {
		return 0
	}
	offset := 0
	if rest != "" {
		var err error
		if offset, err = strconv.Atoi(rest); err != nil {
			return 0
		}
	}
	if n := base + offset; n >= sigRTMin && n <= sigRTMax {
		return unix.Signal(n)
	}
	return 0
}

// statusSignal is s in the terms of ContainerStatus; SIGNAL_RUNTIME_DEFAULT if the API
// has no name for it.
func statusSignal(s unix.Signal) v1.Signal {
	name := unix.SignalName(s)
	switch n := int(s); {
	case n == sigRTMin:
		name = "SIGRTMIN"
	case n == sigRTMax:
		name = "SIGRTMAX"
	case n > sigRTMin && n <= sigRTMin+15:
		name = "SIGRTMINPLUS" + strconv.Itoa(n-sigRTMin)
	case n > sigRTMin && n < sigRTMax:
		name = "SIGRTMAXMINUS" + strconv.Itoa(sigRTMax-n)
	}
	return v1.Signal(v1.Signal_value["SIGNAL_"+name])
}
