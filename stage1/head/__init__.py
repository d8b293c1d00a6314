"""``python -m stage1.head``: fits the head with which ``deedsr diagnose`` reads an encoder's vectors."""
