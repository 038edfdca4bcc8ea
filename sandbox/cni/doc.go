// Package cni connects pods to the network through CNI plugins (cni.dev).
//
// The configuration is read from its directory whenever it is needed, so a change
// counts at once and there is nothing to watch. A ledger on disk holds every
// attachment from before its ADD until after its DEL, with the configuration that made
// it: whatever is killed in between, and after a reboot, the DEL can still be done.
package cni
