"""The pure choice: device + catalogue + request -> Plan."""
