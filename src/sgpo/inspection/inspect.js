const index = read("index");
byId("subtitle").textContent = index.subtitle;
tokenView(index, (number) => read(`answer-${number}`));
document.documentElement.dataset.ready = "true";
