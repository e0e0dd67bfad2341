"""What makes it fast and changes no value: threads and memory, devices, compiling."""
