// Package nri lets plugins of the Node Resource Interface (NRI,
// github.com/containerd/nri) see pods and containers, and change containers: when they are
// created, when their limits change, and whenever a plugin wants to.
//
// The adaptation of that module speaks with plugins, one request at a time. A plugin that
// does not answer within the request's time is dropped, and the request goes on without
// it. Nothing here holds a lock while plugins are asked or what they asked for is done.
package nri
