// Package conformance holds the tests that every sandbox.Driver must pass: what a pod and
// its containers are in one hull they are in every other. The tests talk to the drivers
// as cri does, through sandbox and runtime alone, with real monitors, layers, networks
// and programs, in a private node.
//
// What a hull cannot give it refuses, by name: Hull.Refused lists what is then expected
// to be refused instead.
package conformance
