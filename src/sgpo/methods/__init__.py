"""Methods: what each samples, and what it lets into the loss with which weight."""
