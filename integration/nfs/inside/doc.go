// Package inside is what a virtual machine of make nfs does for the test: it runs programs, holds locks of
// images, and is one of the hosts that tell each other by rotate/coord.
//
// Serve answers calls of net/rpc. What is to stay open between two calls has a number.
package inside
