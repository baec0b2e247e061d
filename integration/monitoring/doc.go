// Package monitoring finds the programs of monitoring systems that tests use: promtool,
// node_exporter, and negate of the monitoring plugins. integration/tools.sh unpacks them in the
// user's cache directory; none of their services is installed.
package monitoring
