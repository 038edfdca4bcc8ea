package main

import "context"

// section is something to measure.
type section struct {
	name, what string
	// lacks says why it cannot be measured of an endpoint; nil: it can of any.
	lacks func(options, endpoint) string
	run   func(context.Context, *session) error
}

// sections are all, in the order in which they are measured. Memory comes first: what other
// sections make a daemon keep is not what pods take.
func sections() []section {
	return []section{
		{"memory", "memory a pod adds and idle processor time; needs --processes", needsProcesses, measureMemory},
		{"start", "start and stop of pods, one after the other, call by call", nil, measureStart},
		{"exec", "ExecSync of true in a running container", nil, measureExec},
		{"parallel", "start and stop of several pods at once, and pods a second", nil, measureParallel},
		{"list", "lists, status and figures with many pods", nil, measureLists},
		{"image", "pull and removal of --pull-image", needsPullImage, measureImage},
		{"log", "lines of 100 bytes through a container's log, and what they cost", nil, measureLog},
		{"stream", "bytes out of an exec, and through a forwarded port", nil, measureStreams},
		{"files", "the image's files and a directory of the host, read and written in a container", nil, measureFiles},
		{"network", "bytes from here into a pod's network and out of it", needsNetwork, measureNetwork},
		{"churn", "pods created and removed without a pause; a second's share", nil, measureChurn},
		{"restart", "a daemon's restart until it tells all its pods right; needs --restart", needsRestart, measureRestart},
	}
}

func needsProcesses(_ options, e endpoint) string {
	if len(e.processes) == 0 {
		return "--processes says not whose memory it is"
	}
	return ""
}

func needsPullImage(o options, _ endpoint) string {
	if o.pullImage == "" {
		return "--pull-image names no image"
	}
	return ""
}

func needsNetwork(o options, _ endpoint) string {
	if o.hostNet {
		return "pods have no network of their own"
	}
	return ""
}

func needsRestart(_ options, e endpoint) string {
	if e.restart == "" {
		return "--restart says not how"
	}
	return ""
}
