// Package integration is the suite for what critest does not cover. It drives a private
// cricketd through its API: kills it, restarts it, and looks at what it leaves behind.
//
// Main, called by TestMain, builds cricketd with failpoints and moves the test program
// into a node of its own. Start then gives a test a daemon, a registry and clients;
// all of them end with the test, and what the daemon leaves behind fails it.
package integration
