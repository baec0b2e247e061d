// Package hosttest is a simulated host, for tests of decisions and of what is done about
// them: a host.Host and an engine.Engine over image files in a temporary directory, whose
// contents are a few numbered blocks. Deletion, links and replacement have their natural
// effect; every call and every step of a job is an Event, at which a test can let a run
// fail or die.
//
// It proves nothing about libvirt or QEMU. What they do is tested on real guests.
package hosttest
