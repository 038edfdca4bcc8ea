// Package cri serves the Kubernetes Container Runtime Interface, version v1: it
// translates and validates requests, keeps the records of sandboxes and containers, and
// answers lists and status from memory. What runs where is the business of the drivers
// behind sandbox.Driver; this package does not know one hull from another.
//
// There is one file for each RPC, named noun_verb. Every call passes one interceptor
// (intercept.go), in which errors get their gRPC code. Mutating calls run as operations
// (package ops) on a context of their own: a caller that gives up and asks again finds
// the attempt that is under way, or its result. Only this package and those below it
// import k8s.io/cri-api.
//
// Locks are taken in one order: sandbox, container, then the store's own, which is
// never held across slow work.
package cri
